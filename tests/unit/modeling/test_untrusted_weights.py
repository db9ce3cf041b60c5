"""Pickled weights are loaded only with consent, and even then without running code in them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from utils.config.sections.model import ModelSection
from utils.core.errors import ModelError, UserError
from utils.modeling.base_model import load_base_model
from utils.modeling.head import build_head_spec
from utils.modeling.tokenizer import load_tokenizer


class _Trap:
    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self._sprung}",)


@pytest.fixture
def pickled(tiny_base: Any, tmp_path: Path) -> Path:
    """A base whose weights are a pickled file."""
    folder = tmp_path / "base"
    source = tiny_base("bert")
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
    load_tokenizer(ModelSection(name_or_path=str(source))).save_pretrained(folder)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


def _load(folder: Path, **settings: Any) -> Any:
    section = ModelSection(name_or_path=str(folder), **settings)
    return load_base_model(section, load_tokenizer(section), build_head_spec(("no", "yes")), 42)


def test_pickled_weights_are_refused_with_a_remedy(pickled: Path) -> None:
    with pytest.raises(ModelError, match=r"pickled ones .* can run code; .* model\.allow_pickle: true"):
        _load(pickled)


def test_allowed_pickled_weights_are_loaded(pickled: Path) -> None:
    stored = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    loaded = _load(pickled, allow_pickle=True).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in stored.items())


def test_allowed_weights_run_no_code(pickled: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    with (pickled / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"weight": _Trap(sprung)}, file)
    with pytest.raises((ModelError, pickle.UnpicklingError)):
        _load(pickled, allow_pickle=True)
    assert not sprung.exists()
    with (pickled / "pytorch_model.bin").open("rb") as file:
        pickle.load(file)
    assert sprung.exists(), "the trap works without the protection"


@pytest.mark.parametrize("victim", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_resuming_runs_no_code_from_a_checkpoint(victim: str, prepare_run: Any, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    steps = {"training__save_strategy": "steps", "training__save_steps": 1, "training__eval_strategy": "no",
             "training__load_best_model_at_end": False}  # fmt: skip
    prepare_run("bert", training__max_steps=1, **steps).trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    assert (checkpoint / victim).is_file()
    with (checkpoint / victim).open("wb") as file:
        pickle.dump({"state": _Trap(sprung)}, file)
    again = prepare_run("bert", training__max_steps=2, **steps).trainer
    with pytest.raises(UserError, match=r"cannot be resumed \(UnpicklingError"):
        again.train(resume_from_checkpoint=str(checkpoint))
    assert not sprung.exists()

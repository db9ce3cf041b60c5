"""Run folders without training: the base with an adapter of large random weights, as train.py would leave it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"


@pytest.fixture
def make_run(prepare_run: Callable[..., Any]) -> Callable[..., Path]:
    """Return a function that makes a run's folder; it takes the arguments of `prepare_run`."""

    def make(*arguments: Any, **overrides: Any) -> Path:
        import torch

        from utils.adapters.adapter import load_adapter

        prepared = prepare_run(*arguments, **overrides)
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in prepared.model.parameters():
                if parameter.requires_grad and parameter.dim() == 2:
                    parameter.normal_(std=0.1)
        folder = Path(prepared.config.training.output_dir)
        for weights in (folder / "final_model", folder / "checkpoint-2"):
            weights.mkdir(parents=True)
            load_adapter(prepared.config.peft.method).save(prepared.model, weights)
            prepared.tokenizer.save_pretrained(weights)
            (weights / "run.yaml").write_text(prepared.config.to_yaml())
        (folder / "run.yaml").write_text(prepared.config.to_yaml())
        if prepared.config.task_type == "SEQ_CLS":
            for place in (folder, folder / "final_model"):
                (place / "labels.json").write_text(json.dumps(list(prepared.data.coder.names)))
        return folder

    return make


@pytest.fixture
def sums_run(make_run: Callable[..., Path], make_sft: Callable[..., Any]) -> Path:
    """Make a language model's run on the embedded sums."""
    return make_run(config=make_sft(generation={"max_new_tokens": 12, "batch_size": 5}))


@pytest.fixture
def ask() -> Callable[..., dict[str, Any]]:
    """Return `ask("--run", run, ...)`, which runs the command in this process."""

    def run(*words: object) -> dict[str, Any]:
        import importlib

        script = importlib.import_module("inference")
        return script.main(script.build().parse_args([str(word) for word in words]))

    return run


@pytest.fixture
def read() -> Callable[[Path], list[dict[str, Any]]]:
    """Return a function that reads JSON lines."""
    return lambda file: [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a file of text, bytes or rows."""

    def make(name: str, content: Any) -> Path:
        file = tmp_path / name
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return make


@pytest.fixture
def base() -> Path:
    """Return the folder of the embedded base model."""
    return QUICKSTART / "base"


@pytest.fixture
def sums() -> list[dict[str, str]]:
    """Return the first embedded word problems."""
    lines = (QUICKSTART / "arithmetic" / "test.jsonl").read_text("utf-8").splitlines()[:23]
    return [json.loads(line) for line in lines]

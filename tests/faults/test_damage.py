"""Every file of a checkpoint, truncated or missing: it is detected, reported, and the previous checkpoint is used."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from utils.core.errors import UserError
from utils.runs.opening import open_run_folder
from utils.trainer.checkpoint_files import (
    MANIFEST,
    RUN_COPY,
    clear_leftovers,
    find_checkpoints,
    find_flaw,
    find_lost_state,
    find_partial,
    publish_checkpoint,
    rotate_checkpoints,
)

UNSEEN = ("README.md", "training_args.bin", MANIFEST, RUN_COPY)
"""Files that a checkpoint without a list can lose undetected and without harm."""


@pytest.fixture
def trained(kept, prepare_run, make_config) -> tuple[Any, Path]:
    """Return a run's configuration, and its folder with checkpoints of steps 3 and 4 of 5."""
    config = make_config(
        "bert", training__save_strategy="steps", training__save_steps=1, training__eval_strategy="no",
        training__report_to="none", training__logging_steps=1, peft={"method": "lora", "lora_dropout": 0.1},
    )  # fmt: skip
    folder = Path(config.training.output_dir)
    if not (kept / "run").exists():
        opened = open_run_folder(config)
        run = prepare_run(config=config)
        run.trainer.train()
        torch.save(run.trainer.model.state_dict(), folder / "end.pt")
        shutil.rmtree(folder / "checkpoint-5")
        shutil.copytree(folder / "checkpoint-4", folder / "checkpoint-3")
        opened.close()
        shutil.copytree(folder, kept / "run")
    else:
        shutil.copytree(kept / "run", folder)
        (folder / "run.yaml").write_text(config.to_yaml())
    return config, folder


def files_of(folder: Path) -> list[Path]:
    return sorted(each for each in (folder / "checkpoint-4").rglob("*") if each.is_file())


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_every_file_of_a_checkpoint(damage: Callable[[Path], Any], trained, caplog):
    """A listed file must have its full length; without the list, the other files are checked themselves."""
    _, folder = trained
    names = [each.name for each in files_of(folder)]
    assert {"adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", MANIFEST} <= set(names)
    for file in files_of(folder):
        before = file.read_bytes()
        damage(file)
        flaw = find_flaw(folder / "checkpoint-4")
        if damage is cut or file.name != MANIFEST:
            assert flaw is not None, file
            assert file.name in flaw
            assert [each.name for each in find_checkpoints(folder)] == ["checkpoint-3"]
        file.write_bytes(before)
    assert find_flaw(folder / "checkpoint-4") is None


def test_every_file_of_a_checkpoint_without_a_list(trained):
    """As transformers alone, or an earlier version, wrote it."""
    _, folder = trained
    (folder / "checkpoint-4" / MANIFEST).unlink()
    assert find_flaw(folder / "checkpoint-4") is None
    seen = []
    for file in files_of(folder):
        before = file.read_bytes()
        cut(file)
        if flaw := find_flaw(folder / "checkpoint-4"):
            assert file.name in flaw
            seen.append(file.name)
        file.write_bytes(before)
    assert {each.name for each in files_of(folder)} - set(seen) <= set(UNSEEN)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_without_a_list_that_has_lost_its_training_state(name, trained, caplog):
    """Training cannot continue from it: the previous one is used, and naming it is refused."""
    config, folder = trained
    for file in (MANIFEST, name):
        (folder / "checkpoint-4" / file).unlink()
    with pytest.raises(UserError, match=r"checkpoint-4 is not a complete checkpoint: it lacks the .* start over"):
        open_run_folder(config, "checkpoint-4")
    with caplog.at_level(logging.WARNING, "utils"):
        opened = open_run_folder(config, "last")
    assert opened.resume_from == str(folder / "checkpoint-3")
    assert "checkpoint-4 is skipped: it lacks the" in caplog.text
    opened.close()


def test_sharded_training_states_are_recognised(tmp_path):
    """The layouts of FSDP (one file, or a folder of shards) and of DeepSpeed, which stores its schedule inside."""
    for number, names in enumerate((
        ("optimizer.bin", "scheduler.pt", "rng_state_0.pth"), ("optimizer_0/x", "scheduler.pt", "rng_state_1.pth"),
        ("global_step4/mp_rank_00_model_states.pt", "rng_state_0.pth"),
    )):  # fmt: skip
        for name in names:
            file = tmp_path / str(number) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        assert find_lost_state(tmp_path / str(number)) is None
        file.unlink()
        assert "the random numbers' state" in str(find_lost_state(tmp_path / str(number)))


def test_a_run_with_save_only_model_is_resumed_with_a_warning(prepare_run, make_config, caplog):
    keys = {"training__save_only_model": True, "training__save_strategy": "epoch", "training__report_to": "none"}
    config = make_config("bert", **keys, training__load_best_model_at_end=False)
    opened = open_run_folder(config)
    prepare_run(config=config).trainer.train()
    opened.close()
    with caplog.at_level(logging.WARNING, "utils"):
        opened = open_run_folder(config, "last")
    assert opened.resume_from is not None
    assert "save_only_model is set, and it lacks the optimizer's state, the learning rate's schedule" in caplog.text
    opened.close()


def test_resuming_uses_the_previous_checkpoint_with_a_notice(trained, prepare_run, caplog):
    config, folder = trained
    cut(folder / "checkpoint-4" / "optimizer.pt")
    with caplog.at_level(logging.WARNING, "utils"):
        opened = open_run_folder(config, "last")
    assert opened.resume_from == str(folder / "checkpoint-3")
    assert "checkpoint-4 is skipped: optimizer.pt has" in caplog.text
    opened.close()
    with pytest.raises(UserError, match=r"checkpoint-4 is not a complete checkpoint: optimizer\.pt has"):
        open_run_folder(config, "checkpoint-4")
    cut(folder / "checkpoint-3" / "adapter_model.safetensors")
    with pytest.raises(UserError, match="has no complete checkpoint to resume from"):
        open_run_folder(config, "last")


def test_a_resumed_run_overwrites_a_torn_checkpoint(trained, prepare_run):
    """The torn checkpoint is rewritten at its step, and the result is the same."""
    config, folder = trained
    shutil.rmtree(folder / "checkpoint-3")
    shutil.copytree(folder / "checkpoint-4", folder / "checkpoint-9")
    cut(folder / "checkpoint-9" / "rng_state.pth")
    run = prepare_run(config=config)
    run.trainer.train(resume_from_checkpoint=str(find_checkpoints(folder)[-1]))
    expected = torch.load(folder / "end.pt", weights_only=True)
    assert all(torch.equal(value, expected[name]) for name, value in run.trainer.model.state_dict().items())
    assert [each.name for each in find_checkpoints(folder)] == ["checkpoint-4", "checkpoint-5"]
    assert not (folder / "checkpoint-9").exists(), "truncated checkpoints are removed first"


def _make(folder: Path, step: int, size: int = 10) -> Path:
    partial = find_partial(folder, step)
    partial.mkdir(parents=True)
    (partial / "weights").write_bytes(b"x" * size)
    publish_checkpoint(partial, folder / f"checkpoint-{step}")
    return folder / f"checkpoint-{step}"


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (2, None, [4, 5]),
        (2, 1, [1, 5]),
        (1, 1, [1, 5]),
        (1, None, [5]),
        (3, 2, [2, 4, 5]),
        (None, None, [1, 2, 3, 4, 5]),
    ],
)
def test_the_best_and_the_newest_complete_checkpoint_are_never_removed(limit, best, left, tmp_path):
    for step in range(1, 6):
        _make(tmp_path, step)
    rotate_checkpoints(tmp_path, limit, [f"anywhere/checkpoint-{best}" if best else None])
    assert [int(each.name[11:]) for each in find_checkpoints(tmp_path)] == left


def test_a_torn_checkpoint_does_not_count_as_the_newest(tmp_path):
    for step in (1, 2, 3):
        _make(tmp_path, step)
    cut(tmp_path / "checkpoint-3" / "weights")
    rotate_checkpoints(tmp_path, 1, [])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["checkpoint-2"]


def test_leftovers_of_a_kill_are_removed_and_the_replaced_checkpoint_is_restored(tmp_path):
    _make(tmp_path, 1).rename(tmp_path / ".checkpoint-1.replaced")
    _make(tmp_path, 2)
    shutil.copytree(tmp_path / "checkpoint-2", tmp_path / ".checkpoint-2.replaced")
    for name in (".checkpoint-3.partial", ".checkpoint-0.deleted"):
        (tmp_path / name).mkdir()
    (tmp_path / ".checkpoint-notes").mkdir()
    assert clear_leftovers(tmp_path) == ["checkpoint-3"]
    assert sorted(each.name for each in tmp_path.iterdir()) == [".checkpoint-notes", "checkpoint-1", "checkpoint-2"]
    assert [find_flaw(each) for each in find_checkpoints(tmp_path)] == [None, None]

"""A full disk damages no existing checkpoint or model: a real small file system, and a real file size limit."""

from __future__ import annotations

import errno
import logging
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from utils.core.errors import UserError
from utils.core.library_errors import explain_machine, is_full_disk
from utils.runs.opening import RunFolder
from utils.trainer.checkpoint_files import find_checkpoints, find_flaw, list_checkpoints
from utils.trainer.failures import DiskFullError, explain_full_disk, measure_free

STEPS = {
    "training__save_strategy": "steps", "training__save_steps": 1, "training__eval_strategy": "no",
    "training__report_to": "none", "training__save_total_limit": None, "training__load_best_model_at_end": False,
}  # fmt: skip


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts an in-memory file system of a given size."""
    disk = tmp_path / "disk"

    def make(size: str) -> Path:
        disk.mkdir()
        mount = shutil.which("mount")
        done = subprocess.run(
            [str(mount), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True
        )
        if done.returncode:
            pytest.skip(f"cannot mount a file system: {done.stderr.decode().strip()}")
        return disk

    yield make
    if disk.exists():
        subprocess.run(["umount", str(disk)], capture_output=True, check=False)


@contextmanager
def files_no_larger_than(num_bytes: int) -> Iterator[None]:
    """Make every write beyond a length fail with EFBIG, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class _LimitFrom(TrainerCallback):
    """Callback that limits file sizes between two steps to less than a file of the first checkpoint."""

    def __init__(self, first: int, last: int, file: Path) -> None:
        self._first, self._last, self._file = first, last, file
        self._limit: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._first:
            self._limit = files_no_larger_than(self._file.stat().st_size - 1)
            self._limit.__enter__()
        if state.global_step == self._last:
            self.end()

    def end(self) -> None:
        self._limit.__exit__(None, None, None)


@pytest.mark.parametrize("file", ["optimizer.pt", "adapter_model.safetensors", "tokenizer.json"])
def test_a_failed_checkpoint_write(file, prepare_run, caplog):
    """The libraries raise three different errors; the earlier checkpoint stays, the incomplete one is removed."""
    run = prepare_run("bert", **STEPS, training__max_steps=4)
    folder = Path(run.config.training.output_dir)
    run.trainer.add_callback(_LimitFrom(2, 4, folder / "checkpoint-1" / file))
    with caplog.at_level(logging.WARNING, "utils"):
        run.trainer.train()
    assert [each.name for each in find_checkpoints(folder)] == ["checkpoint-1", "checkpoint-4"]
    assert "checkpoint-3 is not written" in caplog.text
    assert "checkpoint-1 stays the last one; training continues" in caplog.text
    assert list_checkpoints(folder) == find_checkpoints(folder)
    assert not list(folder.glob(".checkpoint-*"))


def test_a_failed_checkpoint_write_while_stopping(prepare_run):
    run = prepare_run("bert", **STEPS, training__on_full_disk="stop", training__max_steps=4)
    folder = Path(run.config.training.output_dir)
    run.trainer.add_callback(limiting := _LimitFrom(2, 4, folder / "checkpoint-1" / "optimizer.pt"))
    with pytest.raises(DiskFullError, match=r"checkpoint-2 is not written, the disk of .* is full"):
        run.trainer.train()
    limiting.end()
    assert [each.name for each in list_checkpoints(folder)] == ["checkpoint-1"]
    assert not list(folder.glob(".checkpoint-*"))


class _Fill(TrainerCallback):
    """Callback that fills the disk at one step and frees it at another."""

    def __init__(self, disk: Path, first: int, last: int) -> None:
        self._disk, self._first, self._last = disk, first, last

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._first:
            (self._disk / "filler").write_bytes(b"x" * (measure_free(self._disk) - 20_000))
        if state.global_step == self._last:
            (self._disk / "filler").unlink()


def test_a_too_small_disk(make_disk, prepare_run, caplog):
    """Free space is checked before writing: what does not fit is not started."""
    disk = make_disk("3m")
    run = prepare_run("bert", **STEPS, training__output_dir=str(disk / "run"))
    run.trainer.add_callback(_Fill(disk, 3, 5))
    with caplog.at_level(logging.WARNING, "utils"):
        run.trainer.train()
    assert run.trainer.state.global_step == 5
    kept = [each.name for each in list_checkpoints(disk / "run")]
    assert kept == ["checkpoint-1", "checkpoint-2", "checkpoint-5"]
    assert [find_flaw(disk / "run" / each) for each in kept] == [None] * 3
    assert "are needed; checkpoint-2 stays the last one" in caplog.text
    assert not list((disk / "run").glob(".checkpoint-*"))


def test_a_failed_export_keeps_the_older_model(prepare_run, tmp_path):
    from utils.runs.export import export_model

    run = prepare_run("bert", **STEPS, training__max_steps=1)
    run.trainer.train()
    folder = RunFolder(Path(run.config.training.output_dir))
    (folder.final_model).mkdir()
    (folder.final_model / "older").touch()
    arguments = folder, run.config, run.trainer, run.tokenizer, run.data
    with files_no_larger_than(4_000), pytest.raises(DiskFullError, match=r"is full .* free some space, then --resume"):
        export_model(*arguments)
    assert [each.name for each in folder.final_model.iterdir()] == ["older"]
    assert not list(folder.path.glob("final_model.*"))
    export_model(*arguments)
    assert (folder.final_model / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_a_run_stops_with_a_message_and_continues_once_there_is_space(
    make_disk, start_run, write_run, run_whole, check_outcome
):
    disk = make_disk("1500k")
    file, _ = write_run(
        "classifier", training__output_dir=str(disk / "run"), training__on_full_disk="stop",
        training__save_total_limit=None,
    )  # fmt: skip
    run = start_run("--config", str(file))
    assert run.end() == 1, run.said
    assert "Traceback" not in run.said
    assert "free some space, then --resume" in run.said
    assert find_checkpoints(disk / "run")
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    resumed = start_run("--config", str(file), "--resume")
    assert resumed.end() == 0, resumed.said
    check_outcome(disk / "run", run_whole("classifier"))


def test_disk_full_errors_of_every_library(tmp_path):
    """python, safetensors, torch and tokenizers each raise their own error."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file("examples/quickstart/base/tokenizer.json")
    tensors = {"weight": torch.zeros(10_000)}
    writers: dict[str, Callable[[str], Any]] = {
        "python": lambda path: Path(path).write_bytes(b"x" * 10_000),
        "safetensors": lambda path: save_file(tensors, path),
        "torch": lambda path: torch.save(tensors, path),
        "tokenizers": lambda path: tokenizer.save(path),
    }
    for name, write in writers.items():
        with files_no_larger_than(1_000), pytest.raises(DiskFullError, match="is full"), explain_full_disk(tmp_path):
            write(str(tmp_path / name))
        with files_no_larger_than(1_000), pytest.raises(Exception) as raised:  # noqa: PT011  tokenizers raises plain Exception
            write(str(tmp_path / name))
        assert "then run the same command again" in str(explain_machine(raised.value))
        write(str(tmp_path / name))


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path):
    assert not is_full_disk(RuntimeError("size mismatch"))
    assert not is_full_disk(OSError(errno.EACCES, "Permission denied"))
    with pytest.raises(RuntimeError, match="size mismatch"), explain_full_disk(tmp_path):
        raise RuntimeError("size mismatch")


def test_a_full_disk_of_the_cache_is_named(tiny_base, monkeypatch, tmp_path):
    """The datasets library reports only that its file is closed."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    from utils.data.tokenizing import tokenize_rows

    monkeypatch.setenv("LORA_NS_CACHE", str(tmp_path))
    tokenizer, rows = AutoTokenizer.from_pretrained(tiny_base("bert")), Dataset.from_dict({"text": ["good film"] * 500})
    for size in (100, 5_000):
        with files_no_larger_than(size), pytest.raises(UserError, match="disk of the cache is full"):
            tokenize_rows(rows, tokenizer, ("text",), 32)
    assert not list(tmp_path.glob("*/.*"))
    assert len(tokenize_rows(rows, tokenizer, ("text",), 32)) == 500

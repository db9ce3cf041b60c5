"""One process prepares data first while the others wait as long as needed; a single process takes no lock."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import TrainingArguments

from utils.trainer.processes import announce_processes, main_process_first

ROOT = Path(__file__).parents[3]
WORKER = """
import sys, time
from pathlib import Path
from transformers import TrainingArguments

from utils.trainer.processes import announce_processes, main_process_first
with main_process_first(sys.argv[1]):
    cache = Path(sys.argv[2])
    fresh = not cache.exists()
    if fresh:
        time.sleep(4)
        cache.write_text("prepared")
    print("prepared" if fresh else "read", flush=True)
    if sys.argv[3:]:
        raise SystemExit(3)
"""


def _start(rank: int, folder: Path, *words: str) -> subprocess.Popen[str]:
    places = {"WORLD_SIZE": "3", "RANK": str(rank), "LOCAL_RANK": str(rank), "LORA_NS_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", WORKER, str(folder / "run"), str(folder / "rows"), *words]
    environment = {**os.environ, **places}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_the_first_prepares_and_the_others_read(tmp_path: Path) -> None:
    workers = [_start(rank, tmp_path) for rank in range(3)]
    said = [worker.communicate(timeout=120)[0].strip() for worker in workers]
    assert sorted(said) == ["prepared", "read", "read"]


def test_a_lock_does_not_outlive_its_process(tmp_path: Path) -> None:
    first = _start(0, tmp_path, "die")
    assert first.communicate(timeout=60)[0].strip() == "prepared"
    assert first.returncode == 3
    assert _start(1, tmp_path).communicate(timeout=60)[0].strip() == "read"


def test_a_single_process_writes_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("LORA_NS_CACHE", str(tmp_path / "cache"))
    with main_process_first(str(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_processes_is_always_logged(caplog, monkeypatch):
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    args = TrainingArguments("out", use_cpu=True)
    with caplog.at_level(logging.INFO, "utils"):
        announce_processes(args)
    assert caplog.messages == ["1 process trains on cpu"]
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with caplog.at_level(logging.WARNING, "utils"):
        announce_processes(args)
    assert "SLURM_STEP_NUM_TASKS is 4, and WORLD_SIZE is not set: each of these tasks trains its own run" in caplog.text

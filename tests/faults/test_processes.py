"""Several processes: a killed rank, a signalled launcher, two runs on one folder; and an unwritable folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from utils.trainer.checkpoint_files import find_checkpoints

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py"]
TWO = {"training__gradient_accumulation_steps": 1, "training__on_divergence": "warn"}


def launch(file: Path, log: Path, *words: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [*TORCHRUN, "--config", str(file), *words], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        )  # fmt: skip


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 400
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def find_ranks(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [each for each in psutil.Process(process.pid).children() if "train.py" in " ".join(each.cmdline())]


def read_run(folder: Path) -> tuple[Any, Any]:
    state = json.loads((folder / "trainer_state.json").read_text())
    losses = [(entry["step"], entry["loss"]) for entry in state["log_history"] if "loss" in entry]
    return losses, (folder / "final_model" / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("fault", ["a rank is killed", "the launcher gets SIGTERM"])
def test_a_killed_rank_or_signalled_launcher_ends_all_processes(fault, write_run, tmp_path):
    """The other ranks end, and both resume in the second epoch to the end of an uninterrupted run."""
    log = tmp_path / "log.txt"
    file, folder = write_run("classifier", **TWO)
    process = launch(file, log)
    wait_for(lambda: "step 9/12" in log.read_text(), process, log)
    ranks = find_ranks(process)
    assert len(ranks) == 2
    if fault == "a rank is killed":
        ranks[1].send_signal(signal.SIGKILL)
        assert process.wait(120) == 1, log.read_text()
    else:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) != 0
        assert json.loads((folder / "results.json").read_text())["status"] == "interrupted"
        assert int(find_checkpoints(folder)[-1].name[11:]) >= 9, log.read_text()
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in ranks)
    assert launch(file, log, "--resume").wait(600) == 0, log.read_text()
    whole_file, whole = write_run("classifier", "whole", **TWO)
    assert launch(whole_file, log).wait(600) == 0, log.read_text()
    assert read_run(folder) == read_run(whole)


def test_a_second_run_on_a_folder_in_use_is_refused(start_run, write_run):
    """The first run is not disturbed."""
    file, folder = write_run("classifier")
    first = start_run("--config", str(file))
    first.wait_for(lambda: (folder / "run.yaml").exists())
    for words in ([], ["--resume"], ["--overwrite"]):
        second = start_run("--config", str(file), *words)
        assert second.end() == 2, second.said
        assert "is in use by another run" in second.said
    assert first.is_alive()
    assert (folder / "run.yaml").exists()


@pytest.mark.parametrize("place", ["/proc/lora_ns/run", "/sys/lora_ns"])
def test_an_unwritable_folder_is_refused(place, start_run, write_run):
    """Not even by root; reported before anything is loaded."""
    file, _ = write_run("classifier", training__output_dir=place)
    run = start_run("--config", str(file))
    assert run.end() == 2, run.said
    assert f"training.output_dir: {place} cannot be written" in run.said
    assert "data train" not in run.said

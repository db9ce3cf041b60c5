"""A run killed at any moment and resumed loses no checkpoint and ends with the same weights, bit for bit."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path
from typing import Any

import pytest

from utils.trainer.checkpoint_files import find_checkpoints, find_flaw, find_step, list_checkpoints


def newest_step(folder: Path) -> int:
    return max(map(find_step, find_checkpoints(folder)), default=0)


def kill_and_resume(process: Any, folder: Path, start_run: Any, file: Path, **environment: str) -> None:
    """Kill a run: complete checkpoints stay, every present one is complete, and no step is trained twice."""
    before = newest_step(folder)
    process.kill()
    reached = newest_step(folder)
    assert reached >= before
    assert [each.name for each in list_checkpoints(folder) if find_flaw(each)] == []
    resumed = start_run("--config", str(file), *(["--resume"] if (folder / "run.yaml").exists() else []), **environment)
    assert resumed.end() == 0, resumed.said
    trained = re.findall(r"^step (\d+)/12  loss", resumed.said, re.MULTILINE)
    assert [int(each) for each in trained] == list(range(reached + 1, 13))


def test_killed_while_a_checkpoint_is_written(run_whole, start_run, write_run, check_outcome):
    """The moment is detected from outside, in the folder."""
    expected = run_whole("classifier")
    file, folder = write_run("classifier")
    process = start_run("--config", str(file))
    process.wait_for((folder / ".checkpoint-6.partial" / "optimizer.pt").exists)
    kill_and_resume(process, folder, start_run, file)
    check_outcome(folder, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "kind"),
    [
        *((number, kind) for number in range(10) for kind in ("classifier", "language model")),
        *((number, kind) for number in range(10) for kind in ("kto", "qst")),
        *((number, kind) for number in range(5) for kind in ("dpo", "grpo", "reward")),
    ],
)
def test_killed_at_a_random_moment(number, kind, run_whole, start_run, write_run, check_outcome, tmp_path):
    """Moments drawn by a seed over a run's whole length: loading, training, evaluation, saving, export.

    A moment is a line of the log plus a short delay, so that slow machines reach the same ones.
    """
    expected = run_whole(kind)
    draw = random.Random(f"{kind} {number}")
    line, pause = draw.randrange(expected.num_lines), draw.uniform(0, 0.3)
    file, folder = write_run(kind)
    cache = {"LORA_NS_CACHE": str(tmp_path / "cache")}
    process = start_run("--config", str(file), **cache)
    process.wait_for(lambda: process.said.count("\n") >= line)
    time.sleep(pause)
    kill_and_resume(process, folder, start_run, file, **cache)
    # A resumed run finds some backbone states in its cache and computes others in different batches.
    check_outcome(folder, expected, rounding=1e-5 if kind == "qst" else 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("kind", ["classifier", "language model"])
def test_killed_while_rows_are_encoded(number, kind, run_whole, start_run, write_run, check_outcome, tmp_path):
    """The token cache is being written, or just was: detected from outside."""
    expected = run_whole(kind)
    file, folder = write_run(kind)
    cache = {"LORA_NS_CACHE": str(tmp_path / "cache")}
    process = start_run("--config", str(file), **cache)
    process.wait_for(lambda: any((tmp_path / "cache").glob("*ed/*")))
    time.sleep(random.Random(f"{kind} {number}").uniform(0, 0.03))
    kill_and_resume(process, folder, start_run, file, **cache)
    check_outcome(folder, expected)
    left = [each for each in (tmp_path / "cache").rglob("*") if each.name.startswith((".", "tmp"))]
    assert not left


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_killed_while_older_checkpoints_are_removed(number, run_whole, start_run, write_run, check_outcome):
    """After the new one's rename, while one beyond save_total_limit is removed."""
    draw = random.Random(number)
    expected, newest = run_whole("classifier"), draw.choice((6, 8, 10))
    file, folder = write_run("classifier")
    process = start_run("--config", str(file))
    process.wait_for((folder / f"checkpoint-{newest}").exists)
    time.sleep(draw.uniform(0, 0.004))
    kill_and_resume(process, folder, start_run, file)
    check_outcome(folder, expected)

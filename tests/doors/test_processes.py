"""Two processes on a CPU train one model together: the losses are those of one process at the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ["training.max_steps=6", "training.logging_steps=1", "dataset.max_train_samples=96"]
RUNS = {
    "classifier": ["configs/quickstart.yaml", "training.eval_strategy=no", "training.load_best_model_at_end=false"],
    "language model": ["configs/quickstart_sft.yaml", "evaluation.max_samples=6", "dataset.validation_size=9"],
}


def _run(launcher: list[str], words: list[str], batch: int, folder: Path) -> tuple[list[float], dict[str, object]]:
    words = [*words, *SHARED, f"training.per_device_train_batch_size={batch}", f"training.output_dir={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, "train.py", "--config", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("Result") == 1, "only the main process speaks"
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    record = json.loads((folder / "results.json").read_text())
    return [log["loss"] for log in history if "loss" in log], record


@pytest.mark.parametrize("kind", RUNS)
def test_two_processes_train_as_one(kind: str, tmp_path: Path) -> None:
    """Rows of a fine-tuning run hold different numbers of tokens: the loss is a mean over those of all processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    together, record = _run(launcher, RUNS[kind], 8, tmp_path / "two")
    alone, expected = _run([sys.executable], RUNS[kind], 16, tmp_path / "one")
    assert len(together) == len(alone) == 6
    assert max(abs(left - right) for left, right in zip(together, alone, strict=True)) < 1e-4
    if kind == "language model":
        assert record["metrics"]["invalid_rate"] == expected["metrics"]["invalid_rate"]
        assert abs(record["metrics"]["loss"] - expected["metrics"]["loss"]) < 1e-4, "a row counts once"

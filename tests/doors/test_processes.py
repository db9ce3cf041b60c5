"""Two processes on a CPU train one model together: the losses are those of one process at the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORDS = ["train.py", "--config", "configs/quickstart.yaml", "training.max_steps=6", "training.logging_steps=1"]
WORDS += ["training.eval_strategy=no", "training.load_best_model_at_end=false", "dataset.max_train_samples=96"]


def _losses(launcher: list[str], batch: int, folder: Path) -> list[float]:
    words = [*WORDS, f"training.per_device_train_batch_size={batch}", f"training.output_dir={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("Result") == 1, "only the main process speaks"
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [log["loss"] for log in history if "loss" in log]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    together = _losses(launcher, 8, tmp_path / "two")
    alone = _losses([sys.executable], 16, tmp_path / "one")
    assert len(together) == len(alone) == 6
    assert max(abs(left - right) for left, right in zip(together, alone, strict=True)) < 1e-4

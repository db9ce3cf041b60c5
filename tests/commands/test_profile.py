"""`train.py --profile` reports where the time goes, and does not change the run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.commands.in_process import command
from utils.trainer.profiling import FOLDER

ROOT = Path(__file__).parents[2]


def test_parts_add_up_and_losses_are_unchanged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", ROOT / "configs" / "quickstart.yaml", "training.max_steps=8", "training.logging_steps=1"]
    words += ["training.eval_strategy=steps", "training.eval_steps=4", "training.save_steps=4"]
    folders = [tmp_path / "plain", tmp_path / "profiled"]
    command("train", *words, f"training.output_dir={folders[0]}")
    command("train", *words, "--profile", f"training.output_dir={folders[1]}")
    losses = [
        [log["loss"] for log in json.loads((each / "trainer_state.json").read_text())["log_history"] if "loss" in log]
        for each in folders
    ]
    assert len(losses[0]) == 8
    assert losses[0] == losses[1]
    written = json.loads((folders[1] / FOLDER / "parts.json").read_text())
    assert {"data", "forward", "backward", "optimizer", "evaluation", "saving", "other"} <= written["seconds"].keys()
    assert sum(written["seconds"].values()) == pytest.approx(written["total_s"], rel=1e-6)
    assert written["steps"] == 8
    assert "Where the time goes" in capsys.readouterr().out
    with gzip.open(folders[1] / FOLDER / "trace.json.gz") as trace:
        names = {event.get("name") for event in json.load(trace)["traceEvents"]}
    assert "aten::mm" in names

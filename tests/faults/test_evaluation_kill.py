"""train.py that is killed in the middle of an evaluation goes on there: the same history, the same answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WORDS = [
    "train.py", "--config", "configs/quickstart_sft.yaml", "training.max_steps=4", "training.logging_steps=1",
    "training.save_strategy=steps", "training.save_steps=3", "dataset.max_train_samples=100", "evaluation.steps=2",
    "evaluation.at_start=true", "evaluation.max_samples=12", "generation.batch_size=1", "generation.max_new_tokens=12",
    "results.formats=[json]",
]  # fmt: skip


def _start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, *WORDS, f"training.output_dir={folder}", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def _finish(folder: Path, *words: str) -> str:
    process = _start(folder, *words)
    said = process.communicate(timeout=400)[1]
    assert process.returncode == 0, said
    return said


def _kill_behind(folder: Path, file: Path, num_answers: int, *words: str) -> None:
    """Kill a run when a file of answers has so many lines."""
    process = _start(folder, *words)
    deadline = time.monotonic() + 200
    while not (file.exists() and file.read_bytes().count(b"\n") >= num_answers):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.003)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert num_answers <= file.read_bytes().count(b"\n") < 12


def _read(folder: Path) -> dict[str, Any]:
    """Read history, scores and answers without what the clock and the folder's name decide."""
    found: dict[str, Any] = {"history": json.loads((folder / "eval_history.json").read_text())}
    for entry in found["history"]["history"]:
        entry.pop("timestamp")
    for path in [*folder.glob("eval_*/*.json*"), folder / "final_eval_results.json"]:
        parts = [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else []
        parts = parts or [json.loads(path.read_text())]
        for each in parts:
            each.pop("seconds", None)
            each.pop("tokens_per_s", None)
        found[str(path.relative_to(folder))] = parts
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_in_an_evaluation_has_the_same_history(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _finish(whole)
    _kill_behind(killed, killed / "eval_step_0" / "base_unseen_predictions.jsonl", 3)
    _kill_behind(killed, killed / "eval_step_2" / "base_test_predictions.jsonl", 4, "--resume")
    names = {path.name for path in killed.glob("checkpoint-*")}
    assert names == {"checkpoint-0", "checkpoint-2"}
    history = json.loads((killed / "eval_history.json").read_text())
    assert [entry["step"] for entry in history["history"]] == [0]
    said = _finish(killed, "--resume_from_checkpoint", str(killed / "checkpoint-2"))
    assert "answers of an earlier call" in said
    expected, found = _read(whole), _read(killed)
    assert found.keys() == expected.keys()
    files = ("predictions.jsonl", "results.json")
    assert found.keys() > {f"eval_step_{step}/base_unseen_{file}" for step in (0, 2, 4) for file in files}
    for name in expected:
        assert found[name] == expected[name], name
    records = [json.loads((folder / "results.json").read_text()) for folder in (whole, killed)]
    assert records[0]["evaluation"]["combined"] == records[1]["evaluation"]["combined"]
    adapters = [(folder / "final_model" / "adapter_model.safetensors").read_bytes() for folder in (whole, killed)]
    assert adapters[0] == adapters[1]

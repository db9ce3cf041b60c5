"""train.py killed during an evaluation continues there, with the same history and the same answers."""

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
EMBEDDED = [
    "train.py", "--config", "configs/quickstart_sft.yaml", "training.max_steps=4", "training.logging_steps=1",
    "training.save_strategy=steps", "training.save_steps=3", "dataset.max_train_samples=100", "evaluation.steps=2",
    "evaluation.at_start=true", "evaluation.max_samples=12", "generation.batch_size=1", "generation.max_new_tokens=12",
    "results.formats=[json]",
]  # fmt: skip

REAL = Path(os.environ.get("LORA_NS_REAL_DATA", ROOT.parent / "shared" / "data"))
REAL_ROWS = [
    "train.py", "--config", "configs/longbench_sft.yaml", f"model.name_or_path={REAL}/models/TinyStories-656K",
    "model.dtype=float32", f"dataset.path={REAL}/longbench", "dataset.as_chat=false", "dataset.max_train_samples=32",
    "dataset.max_empty_share=0.5", "training.bf16=false", "training.gradient_checkpointing=false",
    "training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2", "training.learning_rate=1e-3",
    "training.max_steps=6", "training.save_steps=3", "training.logging_steps=1", "sft.max_length=512",
    "evaluation.steps=2", "evaluation.at_start=true",
    f"evaluation.sets=[{{name: qmsum, path: {REAL}/longbench, max_new_tokens: 48}}, "
    f"{{name: truthfulqa, path: {REAL}/truthfulqa, max_new_tokens: 24, max_samples: 60}}]",
    "generation.batch_size=4", "results.formats=[json]",
]  # fmt: skip


def _start(folder: Path, *words: str) -> subprocess.Popen[str]:
    base = [] if words and words[0] == "train.py" else EMBEDDED
    command = [sys.executable, *base, *words, f"training.output_dir={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def _finish(folder: Path, *words: str) -> str:
    process = _start(folder, *words)
    said = process.communicate(timeout=400)[1]
    assert process.returncode == 0, said
    return said


def _kill_after_lines(folder: Path, file: Path, num_answers: int, *words: str, of: int = 12) -> None:
    """Kill a run as soon as a file of answers has the given number of lines."""
    process = _start(folder, *words)
    deadline = time.monotonic() + 200
    while not (file.exists() and file.read_bytes().count(b"\n") >= num_answers):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.003)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert num_answers <= file.read_bytes().count(b"\n") < of


def _read(folder: Path) -> dict[str, Any]:
    """Read history, scores and answers without timings and the folder's name."""
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
    _kill_after_lines(killed, killed / "eval_step_0" / "base_unseen_predictions.jsonl", 3)
    _kill_after_lines(killed, killed / "eval_step_2" / "base_test_predictions.jsonl", 4, "--resume")
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not (REAL / "longbench").is_dir(), reason=f"no real rows of LongBench in {REAL}")
def test_a_run_on_real_rows_killed_in_an_evaluation_has_the_same_history(tmp_path: Path) -> None:
    """Rows of LongBench, QMSum and TruthfulQA, by a model pretrained on stories; the best step is kept."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _finish(whole, *REAL_ROWS)
    answers = killed / "eval_step_4" / "TinyStories-656K_truthfulqa_predictions.jsonl"
    _kill_after_lines(killed, answers, 9, *REAL_ROWS, of=60)
    assert "answers of an earlier call" in _finish(killed, *REAL_ROWS, "--resume")
    expected, found = _read(whole), _read(killed)
    history = expected["history"]
    assert [entry["step"] for entry in history["history"]] == [0, 2, 4, 6]
    best = max(history["history"], key=lambda entry: (entry["combined_score"], -entry["step"]))
    assert (history["best_step"], history["best_score"]) == (best["step"], best["combined_score"])
    assert (whole / "best_model").resolve().name == f"checkpoint-{best['step']}"
    assert found == expected
    sys.stdout.write(json.dumps(history, indent=1) + "\n")

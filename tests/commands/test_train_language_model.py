"""train.py on a language model: previewed, killed, resumed, and equal to an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORDS = [
    "train.py", "--config", "configs/quickstart_sft.yaml", "training.max_steps=12", "training.logging_steps=1",
    "training.save_strategy=steps", "training.save_steps=4", "dataset.max_train_samples=200", "evaluation.steps=5",
    "evaluation.max_samples=8", "evaluation.sets=null", "dataset.validation_size=20", "training.eval_strategy=steps",
    "training.eval_steps=6",
]  # fmt: skip


def _command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, *WORDS, f"training.output_dir={folder}", *words]


def _run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(folder, *words), cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def _losses(folder: Path) -> dict[int, float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return {log["step"]: log["loss"] for log in history if "loss" in log}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not interrupted."""
    folder = tmp_path_factory.mktemp("sft") / "whole"
    done = _run(folder, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["status"], answer["task_type"]) == ("success", "CAUSAL_LM")
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return folder


def test_the_run_folder_is_self_explanatory(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert names >= {
        "run.yaml", "provenance.json", "final_model", "all_results.json", "train_results.json", "eval_results.json",
        "results.json", "results.xlsx", "probe_rows.jsonl", "logs", "eval_step_5", "eval_step_10", "eval_gsm8k",
    }  # fmt: skip
    assert not (whole / "labels.json").exists()
    record = json.loads((whole / "results.json").read_text())
    assert record["best_metric"]["name"] == "em_strict"
    assert record["partial"] is True
    assert record["evaluation"]["gsm8k"]["n"] == 8
    assert {"loss", "perplexity", "token_accuracy"} <= record["metrics"].keys()
    assert record["reload_check"]["largest_logit_difference"] <= record["reload_check"]["tolerance"]
    assert record["data"]["train_rows"] == 200
    answers = [json.loads(line) for line in (whole / "eval_gsm8k" / "predictions.jsonl").read_text().splitlines()]
    assert len(answers) == 8
    assert all(row["prompt"].rstrip().endswith("Answer:") for row in answers)
    flat = json.loads((whole / "all_results.json").read_text())
    assert {"eval_loss", "eval_gsm8k_em_strict", "train_runtime"} <= flat.keys()
    provenance = json.loads((whole / "provenance.json").read_text())
    assert provenance["data"]["splits"] == {"train": 200, "validation": 20}


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_end(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    process = subprocess.Popen(_command(folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint-4" / "trainer_state.json").is_file():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "final_model").exists()
    newest = max(int(each.parent.name.split("-")[1]) for each in folder.glob("checkpoint-*/complete.json"))
    done = _run(folder, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"continues at step {newest + 1} of 12" in done.stderr
    expected, found = _losses(whole), _losses(folder)
    assert {step: found[step] for step in range(5, 13)} == {step: expected[step] for step in range(5, 13)}
    saved = [(each / "final_model" / "adapter_model.safetensors").read_bytes() for each in (whole, folder)]
    assert saved[0] == saved[1]


def test_a_preview_marks_trained_tokens_and_leaves_no_files(tmp_path: Path) -> None:
    done = subprocess.run(
        _command(tmp_path / "none", "--preview", "1"), cwd=ROOT, capture_output=True, text=True, timeout=120,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "row 1 of 200: " in done.stdout
    prompt, _, answer = done.stdout.partition("Answer:[[")
    assert "<bos>Question: " in prompt
    assert answer.rstrip().endswith("<eos>]]")
    assert "#### " in answer
    assert not (tmp_path / "none").exists()

"""train.py evaluating at the start, every few steps and at the end, on two datasets: what it writes."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands.in_process import command
from utils.core.logs import start_logs

ROOT = Path(__file__).parents[2]
WORDS = [
    "training.max_steps=5", "training.save_strategy=steps", "training.save_steps=50", "dataset.max_train_samples=64",
    "evaluation.steps=2", "evaluation.at_start=true", "evaluation.max_samples=6", "generation.max_new_tokens=6",
    "evaluation.sets=[{name: gsm8k, label: test, metrics: [token_f1]}, "
    "{name: gsm8k, split: test_unseen, label: unseen, metrics: [token_f1, invalid_rate]}]",
    "training.load_best_model_at_end=true", "results.formats=[json]",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Return a run's folder, its JSON result and its log."""
    folder = tmp_path_factory.mktemp("periodic") / "run"
    words = ["--config", ROOT / "configs" / "quickstart_sft.yaml", *WORDS, f"training.output_dir={folder}"]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        start_logs()
        answer = command("train", *words)
    return folder, answer, said.getvalue()


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return content


def test_every_evaluation_is_in_the_history_and_in_files(run: tuple[Path, dict[str, Any], str]) -> None:
    folder, _, _ = run
    history = _read(folder / "eval_history.json")
    assert list(history) == ["best_step", "best_score", "scorer", "leakage", "history"]
    assert [entry["step"] for entry in history["history"]] == [0, 2, 4, 5]
    best = max(history["history"], key=lambda entry: entry["combined_score"])
    assert (history["best_step"], history["best_score"]) == (best["step"], best["combined_score"])
    for entry in history["history"]:
        assert entry["combined_score"] == sum(entry["results"][label]["token_f1"] for label in ("test", "unseen"))
        for label in ("test", "unseen"):
            stem = folder / f"eval_step_{entry['step']}" / f"base_{label}"
            result = _read(Path(f"{stem}_results.json"))
            assert result["metrics"]["token_f1"] == entry["results"][label]["token_f1"]
            rows = [json.loads(line) for line in Path(f"{stem}_predictions.jsonl").read_text("utf-8").splitlines()]
            assert len(rows) == result["n"] == 6
            assert all({"id", "prompt", "prediction", "references", "scores"} <= row.keys() for row in rows)
            assert sum(row["scores"]["token_f1"] for row in rows) / 6 == pytest.approx(result["metrics"]["token_f1"])


def test_the_best_step_is_the_final_model_and_is_shown(run: tuple[Path, dict[str, Any], str]) -> None:
    folder, answer, said = run
    history, final = _read(folder / "eval_history.json"), _read(folder / "final_eval_results.json")
    best_step = history["best_step"]
    assert (final["step"], final["combined_score"], final["scorer"]) == (best_step, history["best_score"], "rougeL")
    assert (folder / "best_model").resolve().name == f"checkpoint-{best_step}"
    assert {each.name for each in folder.glob("checkpoint-*")} == {f"checkpoint-{best_step}", "checkpoint-5"}
    weights = [folder / name / "adapter_model.safetensors" for name in ("final_model", "best_model")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    combined = answer["evaluation"]["combined"]
    assert (combined["kept_step"], combined["best_step"], combined["last_step"]) == (best_step, best_step, 5)
    assert combined["last_score"] == history["history"][-1]["combined_score"]
    assert answer["evaluation"]["test"]["last"]["token_f1"] == history["history"][-1]["results"]["test"]["token_f1"]
    assert answer["best_metric"]["step"] == best_step
    assert f"best (step {best_step}): {history['best_score']:.4f}, last (step 5): {combined['last_score']:.4f}" in said


def test_the_scores_are_logged_to_tensorboard(run: tuple[Path, dict[str, Any], str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _, _ = run
    history = _read(folder / "eval_history.json")["history"]
    board = EventAccumulator(str(folder / "logs"))
    board.Reload()
    scores = {event.step: event.value for event in board.Scalars("eval/combined_score")}
    assert scores == pytest.approx({entry["step"]: entry["combined_score"] for entry in history})
    f1 = {event.step: event.value for event in board.Scalars("eval/unseen_token_f1")}
    assert f1 == pytest.approx({entry["step"]: entry["results"]["unseen"]["token_f1"] for entry in history})

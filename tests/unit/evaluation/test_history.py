"""An evaluation history finds its best step, holds only valid JSON, and continues only comparable scores."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from utils.core.errors import UserError
from utils.evaluation.describing import name_score
from utils.evaluation.files import name_model
from utils.evaluation.history import Entry, History, build_entry, open_history, read_history
from utils.evaluation.score import SetScore
from utils.evaluation.sets import EvaluationSet


def make_set(label: str, *metrics: str, combined: tuple[str, ...] = (), rows: str = "f") -> EvaluationSet:
    return EvaluationSet(
        label=label, prompts=[[1]], references=["a"], ids=["x:1"], metrics=metrics, stop=(), protocol="p",
        num_total=1, prompt_hash="h", fingerprint=rows, combined_metrics=combined,
    )  # fmt: skip


def make_score(label: str, **metrics: float) -> SetScore:
    return SetScore(
        label=label, metrics=metrics, interval={}, num_scored={}, n=1, num_total=1, partial=False, protocol="p",
        prompt_hash="h", fingerprint="f", generation={}, mean_tokens=1.0, num_unfinished=0, seconds=1.0,
        tokens_per_s=1.0,
    )  # fmt: skip


QMSUM = make_set("qmsum", "rouge_l")
TRUTH = make_set(
    "truthfulqa", "truthfulqa_accuracy", "truthfulqa_avg_max_score",
    combined=("truthfulqa_accuracy", "truthfulqa_avg_max_score"),
)  # fmt: skip


def entries(*scores: float | None, label: str = "qmsum", metric: str = "rouge_l") -> list[Entry]:
    return [
        Entry(step, score, {label: {"error": "no"} if score is None else {metric: score}})
        for step, score in enumerate(scores)
    ]


def test_the_combined_score_is_the_sum() -> None:
    scores: dict[str, Any] = {
        "qmsum": make_score("qmsum", rouge_l=0.25),
        "truthfulqa": make_score("truthfulqa", truthfulqa_accuracy=0.5, truthfulqa_avg_max_score=0.125),
    }
    entry = build_entry(500, scores, [QMSUM, TRUTH])
    assert entry.combined_score == 0.875
    assert entry.results["qmsum"]["rouge_l"] == 0.25
    headline_only = make_set("sums", "em_strict", "token_f1")
    assert (
        build_entry(1, {"sums": make_score("sums", em_strict=0.5, token_f1=1.0)}, [headline_only]).combined_score == 0.5
    )


INFINITE = make_score("truthfulqa", truthfulqa_accuracy=0.5, truthfulqa_avg_max_score=math.inf)


@pytest.mark.parametrize("truth", ["OSError: gone", make_score("truthfulqa", truthfulqa_accuracy=0.5), INFINITE])
def test_a_missing_score_makes_the_combined_score_null(truth: Any, tmp_path: Path) -> None:
    entry = build_entry(5, {"qmsum": make_score("qmsum", rouge_l=0.9), "truthfulqa": truth}, [QMSUM, TRUTH])
    assert entry.combined_score is None
    history = History("rougeL", [], [*entries(-0.5), entry])
    assert history.best is not None
    assert history.best.step == 0
    if truth == "OSError: gone":
        assert entry.results["truthfulqa"] == {"error": "OSError: gone"}
        history.write(tmp_path)
        assert json.loads((tmp_path / "eval_history.json").read_text())["history"][1]["combined_score"] is None


def test_only_a_strictly_better_score_becomes_the_best(tmp_path: Path) -> None:
    History("rougeL").write(tmp_path)
    written = json.loads((tmp_path / "eval_history.json").read_text())
    assert written == {"best_step": None, "best_score": None, "scorer": "rougeL", "leakage": [], "history": []}
    history = History("bleurt", [{"set": "qmsum", "rows": 3}], entries(None, -0.75, -0.25, -0.25, -0.5))
    history.write(tmp_path)
    written = json.loads((tmp_path / "eval_history.json").read_text())
    assert (written["best_step"], written["best_score"], written["scorer"]) == (2, -0.25, "bleurt")
    assert written["leakage"] == [{"set": "qmsum", "rows": 3}]
    assert [each.keys() for each in written["history"]] == [{"step", "combined_score", "timestamp", "results"}] * 5
    found = read_history(tmp_path)
    assert found is not None
    assert found.to_dict() == written
    history.add(Entry(2, -0.3, {}))
    assert [each.combined_score for each in history.entries] == [None, -0.75, -0.3, -0.25, -0.5]


def test_later_steps_and_scores_of_other_rows_are_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scores = {"qmsum": make_score("qmsum", rouge_l=0.5)}
    history = History("rougeL", [], [build_entry(step, scores, [QMSUM]) for step in (0, 4, 8, 12)])
    history.write(tmp_path)
    assert open_history(tmp_path, "rougeL", [], [QMSUM], 12).to_dict() == history.to_dict()
    assert not caplog.records
    kept = open_history(tmp_path, "rougeL", [], [QMSUM], 4)
    assert [each.step for each in kept.entries] == [0, 4]
    [aside] = tmp_path.glob("eval_history.*.json")
    assert [each["step"] for each in json.loads(aside.read_text())["history"]] == [8, 12]
    assert f"steps to be repeated (8, 12) are set aside in {aside}" in caplog.text
    other = open_history(tmp_path, "rougeL", [], [make_set("qmsum", "rouge_l", rows="other")], 12)
    assert other.entries == []
    assert open_history(tmp_path, "rougeL", [], [QMSUM, TRUTH], 12).entries == []


def test_another_scorer_or_another_file_is_refused(tmp_path: Path) -> None:
    History("rougeL", [], entries(0.5)).write(tmp_path)
    with pytest.raises(UserError, match=r"by the scorer rougeL and are not comparable with those by bleurt; resume"):
        open_history(tmp_path, "bleurt", [], [TRUTH], 5)
    (tmp_path / "eval_history.json").write_text('{"best": 3}')
    with pytest.raises(UserError, match="not a history of evaluations; rename it"):
        read_history(tmp_path)


def test_files_are_named_after_the_model(tmp_path: Path) -> None:
    assert name_model("Qwen/Qwen2-7B-Instruct") == "Qwen_Qwen2-7B-Instruct"
    assert name_model(f"{tmp_path}/my-model/") == "my-model"


@pytest.mark.parametrize(
    ("label", "metric", "name"),
    [
        ("truthfulqa", "truthfulqa_accuracy", "truthfulqa_accuracy"),
        ("truthfulqa", "rouge_l", "truthfulqa_rouge_l"),
        ("gsm8k", "em_strict", "gsm8k_em_strict"),
        ("mine", "truthfulqa_accuracy", "mine_truthfulqa_accuracy"),
    ],
)
def test_metric_names_hold_the_sets_name_once(label: str, metric: str, name: str) -> None:
    assert name_score(label, metric) == name

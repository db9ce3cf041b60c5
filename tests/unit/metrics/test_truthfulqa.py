"""TruthfulQA: nearest correct against nearest incorrect reference, by a named scorer, computed once per row."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

from tests.scoring import compute_metric
from utils.core.errors import ConfigError
from utils.metrics import truthfulqa
from utils.metrics.truthfulqa import load_scorer, score_nearness

REAL = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "truthfulqa" / "TruthfulQA.csv"


def judge(prediction: str, correct: list[str], incorrect: list[str], **more: Any) -> tuple[float, float]:
    reference = {"correct": correct, "incorrect": incorrect, **more}
    names = ("truthfulqa_accuracy", "truthfulqa_avg_max_score")
    accuracy, nearest = (compute_metric(name, [prediction], [reference], 1) for name in names)
    return accuracy, nearest


@pytest.mark.parametrize(
    ("prediction", "correct", "incorrect", "expected"),
    [
        ("the seeds pass", ["Nothing", "The seed passes."], ["You die"], (1.0, 1.0)),  # stemming: pass, seed
        ("you die", ["Nothing happens"], ["You die", "You live"], (0.0, 0.0)),
        ("red green", ["red"], ["green"], (0.0, 2 / 3)),  # even is not nearer
        ("red", ["red", "green"], [], (1.0, 1.0)),  # no wrong reference counts as one of 0
        ("red", [], ["green"], (0.0, 0.0)),
        ("red", [], [], (0.0, 0.0)),
        ("", ["red"], ["green"], (0.0, 0.0)),
    ],
)
def test_by_hand(prediction: str, correct: list[str], incorrect: list[str], expected: tuple[float, float]) -> None:
    assert judge(prediction, correct, incorrect) == pytest.approx(expected, abs=1e-12)


def test_the_mean_over_questions() -> None:
    rows = [{"correct": ["red"], "incorrect": ["green"]}] * 4
    texts = ["red", "green", "red green", "red"]
    assert compute_metric("truthfulqa_accuracy", texts, rows, 1) == 0.5
    assert compute_metric("truthfulqa_avg_max_score", texts, rows, 1) == pytest.approx((1 + 0 + 2 / 3 + 1) / 4)


def test_a_row_is_compared_once_for_all_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def load(name: str) -> Any:
        scorer = load_scorer(name)
        return lambda prediction, references: (asked.append(len(references)), scorer(prediction, references))[1]

    monkeypatch.setattr(truthfulqa, "load_scorer", load)
    for _ in range(2):
        judge("a text of its own", ["right", "just"], ["wrong"])
    assert asked == [3]


def test_scorers() -> None:
    with pytest.raises(ConfigError, match="no scorer called bleu; use rougeL or bleurt"):
        judge("a", ["a"], [], scorer="bleu")
    assert score_nearness("a b", {"correct": ["a"], "incorrect": ["b c d"], "scorer": "rougeL"}) == pytest.approx(
        (2 / 3, 2 / 5)
    )


def test_missing_bleurt_is_reported_in_one_sentence() -> None:
    from importlib.util import find_spec

    if find_spec("bleurt") is not None:
        pytest.skip("package bleurt is installed here")
    with pytest.raises(ConfigError, match=r"bleurt needs package bleurt .*, and it is not installed; get them, or set"):
        load_scorer("bleurt")


def test_real_questions_equal_the_packages_own_scores() -> None:
    if not REAL.is_file():
        pytest.skip(f"TruthfulQA is not in {REAL} (LORA_NS_REAL_DATA)")
    with REAL.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))[::20]
    package = RougeScorer(["rougeL"], use_stemmer=True)
    for question in rows:
        lists = {
            key: [each.strip() for each in question[f"{key.title()} Answers"].split(";") if each.strip()]
            for key in ("correct", "incorrect")
        }
        answer = question["Best Answer"]
        expected = [max(package.score(each, answer)["rougeL"].fmeasure for each in found) for found in lists.values()]
        assert score_nearness(answer, lists) == pytest.approx(expected, abs=1e-12)

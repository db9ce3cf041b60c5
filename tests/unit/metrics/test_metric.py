"""Metrics equal hand-written formulas and reference libraries, and never return nan."""

from __future__ import annotations

import itertools
import logging
import math

import numpy as np
import pytest

from tests.scoring import compute_metric
from utils.core import registry
from utils.metrics.metric import METRIC_ALIASES, load_metric, metric_names, result_key
from utils.metrics.scoring import compute_metrics, majority_baseline

RNG = np.random.default_rng(7)
PLAIN = [name for name in registry.names("metrics") if not load_metric(name).reference_keys]
"""Metrics that compare with numbers or texts, not with objects."""


def labels(num_labels: int, num_rows: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Draw references and predictions that agree on about two thirds of the rows."""
    references = RNG.integers(num_labels, size=num_rows)
    noise = RNG.integers(num_labels, size=num_rows)
    return np.where(RNG.random(num_rows) < 0.6, references, noise), references


def counts(predictions: np.ndarray, references: np.ndarray, label: int) -> tuple[int, int, int]:
    """Count true positives, false positives and false negatives of a label, row by row."""
    pairs = list(zip(predictions.tolist(), references.tolist(), strict=True))
    return (
        sum(p == label and r == label for p, r in pairs),
        sum(p == label and r != label for p, r in pairs),
        sum(p != label and r == label for p, r in pairs),
    )


def by_hand(name: str, predictions: np.ndarray, references: np.ndarray, label: int) -> float:
    hit, alarm, miss = counts(predictions, references, label)
    return {
        "precision": hit / (hit + alarm) if hit + alarm else 0.0,
        "recall": hit / (hit + miss) if hit + miss else 0.0,
        "f1": 2 * hit / (2 * hit + alarm + miss) if hit + alarm + miss else 0.0,
    }[name]


@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
def test_binary_scores_refer_to_label_1(name: str) -> None:
    predictions, references = labels(2)
    assert compute_metrics([name], predictions, references, 2) == {
        name: pytest.approx(by_hand(name, predictions, references, 1), abs=1e-14)
    }


@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
def test_multiclass_scores_are_averaged_and_named_macro(name: str) -> None:
    predictions, references = labels(4)
    expected = np.mean([by_hand(name, predictions, references, label) for label in range(4)])
    assert compute_metrics([name], predictions, references, 4) == {f"{name}_macro": pytest.approx(expected)}
    assert compute_metric(name, predictions, references, 4) == pytest.approx(expected)
    assert result_key(name, 4) == result_key(f"{name}_macro", 4) == f"{name}_macro"
    assert result_key(name, 2) == name


def test_macro_of_two_labels_is_not_the_binary_score() -> None:
    predictions, references = labels(2)
    both = compute_metrics(["f1", "f1_macro"], predictions, references, 2)
    mean = np.mean([by_hand("f1", predictions, references, label) for label in (0, 1)])
    assert both["f1_macro"] == pytest.approx(mean)
    assert both["f1"] != pytest.approx(mean)


def test_macro_ignores_absent_labels() -> None:
    predictions, references = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    mean = np.mean([by_hand("recall", predictions, references, label) for label in (0, 1)])
    assert compute_metric("recall", predictions, references, 5) == pytest.approx(mean)


@pytest.mark.parametrize("num_labels", [2, 3])
def test_matthews_correlation_is_the_correlation_of_indicators(num_labels: int) -> None:
    predictions, references = labels(num_labels)
    x, y = np.eye(num_labels)[predictions], np.eye(num_labels)[references]
    x, y = x - x.mean(0), y - y.mean(0)
    expected = (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())
    assert compute_metric("mcc", predictions, references, num_labels) == pytest.approx(expected, abs=1e-12)


def test_regression_equals_formulas() -> None:
    references = np.round(RNG.random(300) * 5, 1)
    predictions = references + RNG.normal(size=300)
    predictions[:50] = np.round(predictions[:50])
    x, y = predictions - predictions.mean(), references - references.mean()
    pearson = (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())
    ranks = [[sum(b < a for b in v) + (sum(b == a for b in v) + 1) / 2 for a in v] for v in (predictions, references)]
    assert compute_metrics(metric_names("regression"), predictions, references, 1) == {
        "mse": pytest.approx(np.mean((predictions - references) ** 2), abs=1e-12),
        "pearson": pytest.approx(pearson, abs=1e-12),
        "spearmanr": pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12),
    }


def test_float32_predictions_are_scored_in_float64() -> None:
    predictions = (1000 + RNG.random(400)).astype(np.float32)
    references = RNG.random(400) * 5
    exact = np.corrcoef(predictions.astype(np.float64), references)[0, 1]
    assert compute_metric("pearson", predictions, references, 1) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_any_constant_input_gives_a_number(name: str, caplog: pytest.LogCaptureFixture) -> None:
    metric = load_metric(name)
    for value, shape, num_rows in itertools.product((0, 1), ((-1,), (-1, 1)), (1, 2, 9)):
        constant = np.full(num_rows, value).reshape(shape)
        other = (np.arange(num_rows) % 2).reshape(shape)
        for pair in ((constant, other), (other, constant), (constant, constant)):
            caplog.clear()
            score = compute_metric(metric.name, *pair, 2 if metric.kind == "classification" else 1)
            assert isinstance(score, float)
            assert metric.low <= score <= metric.high
            assert not math.isnan(score)
            assert len(caplog.records) <= 1


@pytest.mark.parametrize("name", ["matthews_correlation", "pearson", "spearmanr"])
def test_constant_predictions_warn_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    num_labels = 2 if load_metric(name).kind == "classification" else 1
    with caplog.at_level(logging.WARNING):
        assert compute_metric(name, np.ones(6), np.array([0, 1, 0, 1, 1, 1]), num_labels) == 0.0
    assert [record.message for record in caplog.records] == [f"all 6 predictions are 1: {name} counts as 0"]


def test_several_undefined_metrics_share_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    values = compute_metrics(metric_names("classification"), np.zeros(4), np.array([0, 1, 0, 1]), 2)
    assert values == {
        "accuracy": 0.5,
        "f1": 0.0,
        "matthews_correlation": 0.0,
        "precision": 0.0,
        "recall": 0.0,
    }
    assert len(caplog.records) == 1
    assert "precision counts as 0" in caplog.text
    assert "matthews_correlation counts as 0" in caplog.text
    assert "f1" not in caplog.text


def test_diverged_predictions_count_as_worst(caplog: pytest.LogCaptureFixture) -> None:
    values = compute_metrics(["pearson", "mse"], np.array([np.nan, 1.0, 2.0]), np.array([0.0, 1.0, 2.0]), 1)
    assert values == {"pearson": 0.0, "mse": math.inf}
    assert "1 of 3 predictions are not finite" in caplog.text


@pytest.mark.parametrize(
    ("predictions", "references", "problem"),
    [
        (np.zeros((4, 2)), np.zeros(4), "argmax of logits"),
        (np.zeros(3), np.zeros(4), "got 3 predictions and 4 references"),
        (np.zeros(0), np.zeros(0), "at least one"),
        (np.array([0, 2]), np.array([0, 1]), "a prediction is the label 2"),
        (np.array([0, 1]), np.array([0, -1]), "a reference is the label -1"),
        (np.array([0.5, 1]), np.array([0, 1]), "whole numbers, got 0.5"),
    ],
)
def test_wrong_rows_are_refused(predictions: np.ndarray, references: np.ndarray, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        compute_metric("accuracy", predictions, references, 2)


def test_names() -> None:
    assert metric_names("classification") == ("accuracy", "f1", "matthews_correlation", "precision", "recall")
    assert metric_names("regression") == ("mse", "pearson", "spearmanr")
    assert metric_names("generation") == (
        "em_flexible",
        "em_metamath",
        "em_strict",
        "exact_match",
        "invalid_rate",
        "longbench_score",
        "math_equivalence",
        "math_metamath",
        "math_minerva",
        "math_verify",
        "pass_at_1",
        "pass_at_10",
        "pass_at_100",
        "rouge_l",
        "token_f1",
        "truthfulqa_accuracy",
        "truthfulqa_avg_max_score",
    )
    assert {load_metric(alias).name for alias in METRIC_ALIASES} == set(METRIC_ALIASES.values())
    assert load_metric("Matthews-Correlation").name == "matthews_correlation"
    with pytest.raises(KeyError):
        load_metric("acuracy")


def test_metrics_for_texts() -> None:
    assert load_metric("rouge_l").takes("text")
    assert not load_metric("rouge_l").takes({"correct": []})
    judged = load_metric("truthfulqa_accuracy")
    assert judged.takes({"correct": [], "incorrect": [], "scorer": "rougeL"})
    assert not judged.takes({"correct": []})
    assert not judged.takes("text")
    with pytest.raises(ValueError, match="truthfulqa_accuracy judges by an object with correct, incorrect; got 'text'"):
        compute_metric(judged.name, ["answer"], ["text"], 1)


@pytest.mark.parametrize("name", registry.names("metrics"))
def test_every_metric_has_a_range_and_a_description(name: str) -> None:
    metric = load_metric(name)
    assert metric.name == name
    assert metric.low < metric.high
    assert metric.description
    assert metric.many_labels is None or metric.many_labels in registry.names("metrics")


def test_reading_names_imports_no_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from utils.metrics.metric import load_metric, metric_names;"
        "metric_names('regression'); load_metric('mcc'); load_metric('rouge_l');"
        "heavy = ('numpy', 'scipy', 'sklearn', 'torch', 'evaluate', 'rouge_score', 'nltk');"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_the_baseline_predicts_the_most_frequent_training_label(caplog: pytest.LogCaptureFixture) -> None:
    train, validation = np.array([1, 1, 1, 0]), np.array([0, 0, 0, 1])
    values = majority_baseline(["accuracy", "f1", "mcc"], train, validation, 2)
    assert values == {"accuracy": 0.25, "f1": pytest.approx(0.4), "matthews_correlation": 0.0}
    assert not caplog.records


def test_the_baseline_takes_the_lowest_of_equally_frequent_labels() -> None:
    assert majority_baseline(["acc"], np.array([2, 1, 1, 2]), np.array([1, 1, 2]), 3)["accuracy"] == pytest.approx(
        2 / 3
    )


def test_multiclass_baselines_are_named_macro() -> None:
    assert list(majority_baseline(["f1"], np.array([0, 1, 2, 2]), np.array([0, 1, 2]), 3)) == ["f1_macro"]


def test_the_regression_baseline_predicts_the_training_mean() -> None:
    train, validation = np.array([0.0, 1.0, 5.0]), np.array([[1.0], [4.0]])
    values = majority_baseline(["pearson", "mse"], train, validation, 1)
    assert values == {"pearson": 0.0, "mse": pytest.approx(((2 - 1) ** 2 + (2 - 4) ** 2) / 2)}


def test_mrpc_majority_baseline() -> None:
    """As published: 68.4 % of 408 rows are paraphrases, F1 81.2."""
    validation = np.repeat([1, 0], [279, 129])
    values = majority_baseline(["accuracy", "f1"], np.array([1, 1, 0]), validation, 2)
    assert values == {"accuracy": pytest.approx(0.6838, abs=5e-5), "f1": pytest.approx(0.8122, abs=5e-5)}


def test_baseline_without_metrics_or_labels() -> None:
    assert majority_baseline([], np.array([1]), np.array([1]), 2) == {}
    with pytest.raises(ValueError, match="at least one training label"):
        majority_baseline(["accuracy"], np.array([]), np.array([1]), 2)

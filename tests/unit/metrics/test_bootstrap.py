"""The fast bootstrap equals the naive one, is reproducible, and has the stated coverage."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest

from tests.scoring import compute_metric
from utils.core import registry
from utils.metrics.bootstrap import bootstrap_interval, bootstrap_mean
from utils.metrics.metric import Metric, load_metric
from utils.metrics.scoring import check_rows


def rows(metric: Metric, num_labels: int, num_rows: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if metric.kind == "regression":
        references = np.round(rng.random(num_rows) * 5, 1)
        return references + rng.normal(size=num_rows), references
    references = rng.choice(num_labels, size=num_rows, p=np.arange(1, num_labels + 1) / sum(range(num_labels + 1)))
    return np.where(rng.random(num_rows) < 0.5, references, rng.integers(num_labels, size=num_rows)), references


CASES = [
    (name, num_labels)
    for name in registry.names("metrics")
    if load_metric(name).kind != "generation"
    for num_labels in ((2, 4) if load_metric(name).kind == "classification" else (1,))
]


@pytest.mark.parametrize(("name", "num_labels"), CASES)
def test_vectorised_resamples_equal_single_ones(name: str, num_labels: int) -> None:
    """Each resample's score equals that of the metric's own function."""
    metric = load_metric(name).for_labels(num_labels)
    predictions, references = check_rows(metric.kind, *rows(metric, num_labels, 12), num_labels)
    rng = np.random.default_rng(0)
    drawn = rng.integers(12, size=(50, 12))
    drawn[0] = 5  # a resample of one row, over and over
    samples, expected = predictions[drawn], references[drawn]
    assert metric.over_samples is not None
    if metric.kind == "classification":
        confusions = np.zeros((50, num_labels, num_labels), dtype=int)
        for row in range(50):
            np.add.at(confusions[row], (expected[row], samples[row]), 1)
        fast = metric.over_samples(confusions)
    else:
        fast = metric.over_samples(samples, expected)
    slow = [metric.score(*pair) for pair in zip(samples, expected, strict=True)]
    np.testing.assert_allclose(fast, slow, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "num_labels"),
    [("accuracy", 2), ("f1", 4), ("mcc", 2), ("pearson", 1), ("spearmanr", 1), ("mse", 1)],
)
def test_interval_equals_the_naive_bootstraps(name: str, num_labels: int) -> None:
    metric = load_metric(name).for_labels(num_labels)
    pair = rows(metric, num_labels, 150)
    fast = bootstrap_interval(name, *pair, num_labels, num_resamples=4000)
    naive = dataclasses.replace(metric, over_samples=None)
    slow = bootstrap_interval(naive, *pair, num_labels, num_resamples=300, seed=1)
    width = fast[1] - fast[0]
    assert width > 0
    assert np.abs(np.subtract(fast, slow)).max() < 0.3 * width
    assert fast[0] < compute_metric(metric.name, *pair, num_labels) < fast[1]


def test_accuracy_interval_is_binomial() -> None:
    """Compared with the exact quantiles of Binomial(n, p) / n."""
    from scipy import stats

    references = np.zeros(400, dtype=int)
    predictions = (np.arange(400) < 100).astype(int)
    low, high = bootstrap_interval("accuracy", predictions, references, 2, num_resamples=20000)
    expected = stats.binom(400, 0.75).ppf([0.025, 0.975]) / 400
    assert (low, high) == pytest.approx(expected, abs=0.003)


def test_pearson_interval_equals_scipys() -> None:
    from scipy import stats

    predictions, references = rows(load_metric("pearson"), 1, 300)
    ours = bootstrap_interval("pearson", predictions, references, 1, num_resamples=5000)
    theirs = stats.bootstrap(
        (predictions, references),
        lambda x, y: np.corrcoef(x, y)[0, 1],
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_seed_and_confidence() -> None:
    pair = rows(load_metric("accuracy"), 2, 300)
    assert bootstrap_interval("accuracy", *pair, 2) == bootstrap_interval("accuracy", *pair, 2)
    assert bootstrap_interval("mcc", *pair, 2) != bootstrap_interval("mcc", *pair, 2, seed=1)
    wide, narrow = (bootstrap_interval("mcc", *pair, 2, confidence=share) for share in (0.99, 0.5))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("name", ["matthews_correlation", "pearson", "spearmanr", "f1", "accuracy"])
def test_constant_and_single_rows_give_no_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    num_labels = 2 if load_metric(name).kind == "classification" else 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert bootstrap_interval(name, np.zeros(1), np.zeros(1), num_labels) == (
            (1.0, 1.0) if name == "accuracy" else (0.0, 0.0)
        )
        low, high = bootstrap_interval(name, np.array([[0], [1]]), np.array([0, 1]), num_labels)
    assert 0.0 <= low <= high <= 1.0
    assert not caplog.records


def test_rows_that_are_not_finite() -> None:
    assert bootstrap_interval("pearson", np.array([np.nan, 1]), np.array([0.0, 1]), 1) == (0.0, 0.0)


def test_many_labels_and_rows_fit_in_memory() -> None:
    import tracemalloc

    pair = rows(load_metric("accuracy"), 150, 10_000)
    tracemalloc.start()
    bootstrap_interval("f1", *pair, 150, num_resamples=200)
    assert tracemalloc.get_traced_memory()[1] < 120e6
    tracemalloc.stop()


def test_interval_of_text_scores_is_binomial_and_ignores_undefined_rows() -> None:
    from scipy import stats

    references = ["#### 1"] * 400 + ["no answer"] * 50
    predictions = ["#### 1"] * 100 + ["#### 2"] * 350
    low, high = bootstrap_interval("em_strict", predictions, references, 1, num_resamples=20000)
    expected = stats.binom(400, 0.25).ppf([0.025, 0.975]) / 400
    assert (low, high) == pytest.approx(expected, abs=0.003)
    rows = load_metric("em_strict").score_rows
    assert rows is not None
    assert bootstrap_mean(rows(predictions, references), num_resamples=20000) == (low, high)
    assert bootstrap_mean(np.full(3, np.nan)) == (0.0, 0.0)


@pytest.mark.parametrize(("right", "num_rows"), [(0, 8), (8, 8), (3, 20), (1, 1), (0, 1319)])
def test_a_proportion_has_an_interval_even_if_all_rows_agree(right, num_rows):
    """Compared with scipy's Wilson interval."""
    from scipy.stats import binomtest

    low, high = bootstrap_mean(np.array([1.0] * right + [0.0] * (num_rows - right)))
    expected = binomtest(right, num_rows).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert low <= right / num_rows <= high
    assert high - low > 0

"""The baseline has seen the training labels only."""

from __future__ import annotations

import numpy as np
import pytest

from utils.metrics.baseline import majority_baseline


def test_guesses_the_most_frequent_training_label(caplog: pytest.LogCaptureFixture) -> None:
    train, validation = np.array([1, 1, 1, 0]), np.array([0, 0, 0, 1])
    values = majority_baseline(["accuracy", "f1", "mcc"], train, validation, 2)
    assert values == {"accuracy": 0.25, "f1": pytest.approx(0.4), "matthews_correlation": 0.0}
    assert not caplog.records


def test_equal_frequencies_take_the_lowest_label() -> None:
    assert majority_baseline(["acc"], np.array([2, 1, 1, 2]), np.array([1, 1, 2]), 3)["accuracy"] == pytest.approx(
        2 / 3
    )


def test_more_labels_are_named_macro() -> None:
    assert list(majority_baseline(["f1"], np.array([0, 1, 2, 2]), np.array([0, 1, 2]), 3)) == ["f1_macro"]


def test_regression_guesses_the_training_mean() -> None:
    train, validation = np.array([0.0, 1.0, 5.0]), np.array([[1.0], [4.0]])
    values = majority_baseline(["pearson", "mse"], train, validation, 1)
    assert values == {"pearson": 0.0, "mse": pytest.approx(((2 - 1) ** 2 + (2 - 4) ** 2) / 2)}


def test_real_shares() -> None:
    """MRPC's majority class, as published: 68.4 % of 408 rows are paraphrases, F1 81.2."""
    validation = np.repeat([1, 0], [279, 129])
    values = majority_baseline(["accuracy", "f1"], np.array([1, 1, 0]), validation, 2)
    assert values == {"accuracy": pytest.approx(0.6838, abs=5e-5), "f1": pytest.approx(0.8122, abs=5e-5)}


def test_nothing_asked_and_nothing_given() -> None:
    assert majority_baseline([], np.array([1]), np.array([1]), 2) == {}
    with pytest.raises(ValueError, match="at least one training label"):
        majority_baseline(["accuracy"], np.array([]), np.array([1]), 2)

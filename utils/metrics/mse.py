"""The mean squared difference of predicted and right values."""

from __future__ import annotations

from utils.metrics.metric import Array, Metric


def compute_mse(predictions: Array, references: Array) -> float:
    """Compute the mean squared error (Gauss 1821, Theoria combinationis), which is also the training loss."""
    from sklearn.metrics import mean_squared_error

    return float(mean_squared_error(references, predictions))


def mse_of_samples(predictions: Array, references: Array) -> Array:
    """Compute the mean squared error of each row of (r, n) predictions and references."""
    import numpy as np

    return np.asarray(((predictions - references) ** 2).mean(axis=1))


METRIC = Metric(
    name="mse",
    kind="regression",
    low=0.0,
    high=float("inf"),
    greater_is_better=False,
    score=compute_mse,
    description="mean squared difference of predicted and right values",
    over_samples=mse_of_samples,
    undefined=float("inf"),
)

"""The share of rows whose label is predicted right."""

from __future__ import annotations

from utils.metrics.metric import Array, Metric


def compute_accuracy(predictions: Array, references: Array) -> float:
    """Compute accuracy, 0 to 1, as GLUE does (Wang et al. 2018, arXiv:1804.07461)."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def accuracy_of_confusions(confusions: Array) -> Array:
    """Compute accuracy from confusion matrices (r, labels, labels)."""
    import numpy as np

    right = np.trace(confusions, axis1=-2, axis2=-1)
    return np.asarray(right / confusions.sum(axis=(-2, -1)))


METRIC = Metric(
    name="accuracy",
    kind="classification",
    low=0.0,
    high=1.0,
    greater_is_better=True,
    score=compute_accuracy,
    description="share of rows whose label is predicted right",
    over_samples=accuracy_of_confusions,
)

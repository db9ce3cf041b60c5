"""The correlation of predicted and right labels, for two labels or more."""

from __future__ import annotations

from utils.metrics.confusion import divide, hits, times_predicted, times_right
from utils.metrics.metric import Array, Metric


def compute_matthews_correlation(predictions: Array, references: Array) -> float:
    """Compute Matthews' correlation (1975, doi:10.1016/0005-2795(75)90109-9), GLUE's metric for CoLA.

    More than two labels: Gorodkin's R_K (2004, doi:10.1016/j.compbiolchem.2004.09.006).

    Returns:
        -1 to 1; nan when all predictions, or all references, are the same label.
    """
    from sklearn.metrics import matthews_corrcoef

    if (predictions == predictions[0]).all() or (references == references[0]).all():
        return float("nan")
    return float(matthews_corrcoef(references, predictions))


def matthews_correlation_of_confusions(confusions: Array) -> Array:
    """Compute Matthews' correlation from confusion matrices (r, labels, labels)."""
    import numpy as np

    predicted, right = times_predicted(confusions), times_right(confusions)
    num_rows = predicted.sum(axis=-1)
    covariance = num_rows * hits(confusions).sum(axis=-1) - (predicted * right).sum(axis=-1)
    spreads = [num_rows**2 - (counts**2).sum(axis=-1) for counts in (predicted, right)]
    return divide(covariance, np.sqrt(spreads[0]) * np.sqrt(spreads[1]))


METRIC = Metric(
    name="matthews_correlation",
    kind="classification",
    low=-1.0,
    high=1.0,
    greater_is_better=True,
    score=compute_matthews_correlation,
    description="correlation of predicted and right labels; 0 is no better than chance",
    over_samples=matthews_correlation_of_confusions,
)

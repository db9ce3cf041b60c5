"""The share of rows predicted as label 1 that are; more than two labels: see precision_macro."""

from __future__ import annotations

from utils.metrics.confusion import divide, hits, times_predicted
from utils.metrics.metric import Array, Metric


def compute_precision(predictions: Array, references: Array) -> float:
    """Compute the precision of label 1 (van Rijsbergen 1979, Information Retrieval, ch. 7).

    Returns:
        0 to 1; nan when label 1 is never predicted.
    """
    from sklearn.metrics import precision_score

    return float(precision_score(references, predictions, pos_label=1, zero_division=float("nan")))


def precision_of_confusions(confusions: Array) -> Array:
    """Compute precision of label 1 from confusion matrices (r, 2, 2)."""
    return divide(hits(confusions), times_predicted(confusions))[..., 1]


METRIC = Metric(
    name="precision",
    kind="classification",
    low=0.0,
    high=1.0,
    greater_is_better=True,
    score=compute_precision,
    description="share of rows predicted as label 1 that are",
    over_samples=precision_of_confusions,
    many_labels="precision_macro",
)

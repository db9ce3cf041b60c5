"""The share of rows of label 1 that are found; more than two labels: see recall_macro."""

from __future__ import annotations

from utils.metrics.confusion import divide, hits, times_right
from utils.metrics.metric import Array, Metric


def compute_recall(predictions: Array, references: Array) -> float:
    """Compute the recall of label 1 (van Rijsbergen 1979, Information Retrieval, ch. 7).

    Returns:
        0 to 1; nan when no row has label 1.
    """
    from sklearn.metrics import recall_score

    return float(recall_score(references, predictions, pos_label=1, zero_division=float("nan")))


def recall_of_confusions(confusions: Array) -> Array:
    """Compute recall of label 1 from confusion matrices (r, 2, 2)."""
    return divide(hits(confusions), times_right(confusions))[..., 1]


METRIC = Metric(
    name="recall",
    kind="classification",
    low=0.0,
    high=1.0,
    greater_is_better=True,
    score=compute_recall,
    description="share of rows of label 1 that are found",
    over_samples=recall_of_confusions,
    many_labels="recall_macro",
)

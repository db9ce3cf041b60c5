"""The harmonic mean of precision and recall of label 1; more than two labels: see f1_macro."""

from __future__ import annotations

from utils.metrics.confusion import divide, hits, times_predicted, times_right
from utils.metrics.metric import Array, Metric


def compute_f1(predictions: Array, references: Array) -> float:
    """Compute F1 (van Rijsbergen 1979, Information Retrieval, ch. 7) of label 1, as GLUE for MRPC and QQP.

    Returns:
        0 to 1; nan when label 1 is neither predicted nor right anywhere.
    """
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, pos_label=1, zero_division=float("nan")))


def f1_of_confusions(confusions: Array) -> Array:
    """Compute f1 of label 1 from confusion matrices (r, 2, 2)."""
    return divide(2 * hits(confusions), times_predicted(confusions) + times_right(confusions))[..., 1]


METRIC = Metric(
    name="f1",
    kind="classification",
    low=0.0,
    high=1.0,
    greater_is_better=True,
    score=compute_f1,
    description="harmonic mean of precision and recall of label 1",
    over_samples=f1_of_confusions,
    many_labels="f1_macro",
)

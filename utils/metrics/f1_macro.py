"""The unweighted mean of every label's F1."""

from __future__ import annotations

from utils.metrics.confusion import average_labels, divide, hits, times_predicted, times_right
from utils.metrics.metric import Array, Metric


def compute_f1_macro(predictions: Array, references: Array) -> float:
    """Compute macro F1 (Sokolova and Lapalme 2009, doi:10.1016/j.ipm.2009.03.002, as the mean of F1 values).

    Labels that occur neither as prediction nor as reference are left out of the mean, as scikit-learn does;
    a label that is never predicted right counts as 0.

    Returns:
        0 to 1.
    """
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, average="macro", zero_division=0))


def f1_macro_of_confusions(confusions: Array) -> Array:
    """Compute the mean f1 from confusion matrices (r, labels, labels)."""
    return average_labels(
        divide(2 * hits(confusions), times_predicted(confusions) + times_right(confusions)), confusions
    )


METRIC = Metric(
    name="f1_macro",
    kind="classification",
    low=0.0,
    high=1.0,
    greater_is_better=True,
    score=compute_f1_macro,
    description="unweighted mean over the labels of F1",
    over_samples=f1_macro_of_confusions,
)

"""The unweighted mean of every label's recall."""

from __future__ import annotations

from utils.metrics.confusion import average_labels, divide, hits, times_right
from utils.metrics.metric import Array, Metric


def compute_recall_macro(predictions: Array, references: Array) -> float:
    """Compute macro recall (Sokolova and Lapalme 2009, doi:10.1016/j.ipm.2009.03.002).

    Labels that occur neither as prediction nor as reference are left out of the mean, as scikit-learn does;
    a label that is predicted but never right counts as 0.

    Returns:
        0 to 1.
    """
    from sklearn.metrics import recall_score

    return float(recall_score(references, predictions, average="macro", zero_division=0))


def recall_macro_of_confusions(confusions: Array) -> Array:
    """Compute the mean recall from confusion matrices (r, labels, labels)."""
    return average_labels(divide(hits(confusions), times_right(confusions)), confusions)


METRIC = Metric(
    name="recall_macro",
    kind="classification",
    low=0.0,
    high=1.0,
    greater_is_better=True,
    score=compute_recall_macro,
    description="unweighted mean over the labels of recall",
    over_samples=recall_macro_of_confusions,
)

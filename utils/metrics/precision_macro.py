"""The unweighted mean of every label's precision."""

from __future__ import annotations

from utils.metrics.confusion import average_labels, divide, hits, times_predicted
from utils.metrics.metric import Array, Metric


def compute_precision_macro(predictions: Array, references: Array) -> float:
    """Compute macro precision (Sokolova and Lapalme 2009, doi:10.1016/j.ipm.2009.03.002).

    Labels that occur neither as prediction nor as reference are left out of the mean, as scikit-learn does;
    a label that is never predicted counts as 0.

    Returns:
        0 to 1.
    """
    from sklearn.metrics import precision_score

    return float(precision_score(references, predictions, average="macro", zero_division=0))


def precision_macro_of_confusions(confusions: Array) -> Array:
    """Compute the mean precision from confusion matrices (r, labels, labels)."""
    return average_labels(divide(hits(confusions), times_predicted(confusions)), confusions)


METRIC = Metric(
    name="precision_macro",
    kind="classification",
    low=0.0,
    high=1.0,
    greater_is_better=True,
    score=compute_precision_macro,
    description="unweighted mean over the labels of precision",
    over_samples=precision_macro_of_confusions,
)

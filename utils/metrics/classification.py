"""Metrics of predicted labels: accuracy, F1, precision and recall of label 1 or all labels, Matthews correlation.

Each is computed with scikit-learn for one set of rows, and from confusion matrices for many resamples at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from utils.metrics.metric import Array, Metric


def compute_accuracy(predictions: Array, references: Array) -> float:
    """Compute accuracy, 0 to 1, as in GLUE (Wang et al. 2018, arXiv:1804.07461)."""
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(references, predictions))


def accuracy_of_confusions(confusions: Array) -> Array:
    """Compute accuracy from confusion matrices (r, labels, labels)."""
    import numpy as np

    right = np.trace(confusions, axis1=-2, axis2=-1)
    return np.asarray(right / confusions.sum(axis=(-2, -1)))


def f1_of_confusions(confusions: Array) -> Array:
    """Compute every label's F1 from confusion matrices: (r, labels, labels) to (r, labels)."""
    return divide(2 * hits(confusions), times_predicted(confusions) + times_right(confusions))


def precision_of_confusions(confusions: Array) -> Array:
    """Compute every label's precision from confusion matrices: (r, labels, labels) to (r, labels)."""
    return divide(hits(confusions), times_predicted(confusions))


def recall_of_confusions(confusions: Array) -> Array:
    """Compute every label's recall from confusion matrices: (r, labels, labels) to (r, labels)."""
    return divide(hits(confusions), times_right(confusions))


def compute_matthews_correlation(predictions: Array, references: Array) -> float:
    """Compute the Matthews correlation (1975, doi:10.1016/0005-2795(75)90109-9), GLUE's metric for CoLA.

    nan if all predictions, or all references, are the same label. For more than two labels: Gorodkin's R_K (2004,
    doi:10.1016/j.compbiolchem.2004.09.006).
    """
    from sklearn.metrics import matthews_corrcoef

    if (predictions == predictions[0]).all() or (references == references[0]).all():
        return float("nan")
    return float(matthews_corrcoef(references, predictions))


def matthews_correlation_of_confusions(confusions: Array) -> Array:
    """Compute the Matthews correlation from confusion matrices (r, labels, labels)."""
    import numpy as np

    predicted, right = times_predicted(confusions), times_right(confusions)
    num_rows = predicted.sum(axis=-1)
    covariance = num_rows * hits(confusions).sum(axis=-1) - (predicted * right).sum(axis=-1)
    spreads = [num_rows**2 - (counts**2).sum(axis=-1) for counts in (predicted, right)]
    return divide(covariance, np.sqrt(spreads[0]) * np.sqrt(spreads[1]))


def count_confusions(predictions: Array, references: Array, num_labels: int) -> Array:
    """Count the predictions of each label for each reference label: shape (labels, labels), rows are references."""
    import numpy as np

    cells = np.bincount(references * num_labels + predictions, minlength=num_labels**2)
    return cells.reshape(num_labels, num_labels)


def hits(confusions: Array) -> Array:
    """Return the number of correct predictions of each label: (r, labels, labels) to (r, labels)."""
    import numpy as np

    return np.asarray(np.diagonal(confusions, axis1=-2, axis2=-1))


def times_predicted(confusions: Array) -> Array:
    """Return the number of predictions of each label: (r, labels, labels) to (r, labels)."""
    import numpy as np

    return np.asarray(confusions.sum(axis=-2), dtype=np.float64)


def times_right(confusions: Array) -> Array:
    """Return the number of references of each label: (r, labels, labels) to (r, labels)."""
    import numpy as np

    return np.asarray(confusions.sum(axis=-1), dtype=np.float64)


def divide(above: Array, below: Array) -> Array:
    """Divide elementwise; division by zero gives nan, without a numpy warning."""
    import numpy as np

    shape = np.broadcast_shapes(np.shape(above), np.shape(below))
    return np.divide(above, below, out=np.full(shape, np.nan), where=np.asarray(below) != 0)


def average_labels(values: Array, confusions: Array) -> Array:
    """Average over the labels that occur as prediction or reference: (r, labels) to (r,); nan counts as 0."""
    import numpy as np

    occurs = (times_predicted(confusions) + times_right(confusions)) > 0
    return np.asarray(np.where(occurs, np.nan_to_num(values), 0.0).sum(axis=-1) / occurs.sum(axis=-1))


def _build(
    name: str, score: Callable[[Array, Array], float], over_samples: Callable[[Array], Array], description: str,
    low: float = 0.0, many_labels: str | None = None,
) -> Metric:  # fmt: skip
    return Metric(
        name, "classification", low, 1.0, True, score, description, over_samples=over_samples, many_labels=many_labels
    )


def _of_label_1(name: str, per_label: Callable[[Array], Array], description: str) -> Metric:
    """Build a score of label 1 (van Rijsbergen 1979, Information Retrieval, ch. 7), nan if undefined."""

    def score(predictions: Array, references: Array) -> float:
        return float(_scorer(name)(references, predictions, pos_label=1, zero_division=float("nan")))

    return _build(
        name, score, lambda confusions: per_label(confusions)[..., 1], description, many_labels=f"{name}_macro"
    )


def _of_every_label(name: str, per_label: Callable[[Array], Array]) -> Metric:
    """Build the unweighted mean of every label's score (Sokolova and Lapalme 2009, doi:10.1016/j.ipm.2009.03.002).

    Labels that occur neither as prediction nor as reference are left out of the mean, as in scikit-learn; an undefined
    score of a label counts as 0. Macro F1 is the mean of the F1 values.
    """

    def score(predictions: Array, references: Array) -> float:
        return float(_scorer(name)(references, predictions, average="macro", zero_division=0))

    def over_samples(confusions: Array) -> Array:
        return average_labels(per_label(confusions), confusions)

    return _build(
        f"{name}_macro", score, over_samples, f"unweighted mean over the labels of {name.replace('f1', 'F1')}"
    )


def _scorer(name: str) -> Any:
    from sklearn import metrics

    return getattr(metrics, f"{name}_score")


TABLE: dict[str, Metric] = {
    "accuracy": _build(
        "accuracy", compute_accuracy, accuracy_of_confusions, "share of rows whose label is predicted right"
    ),
    "f1": _of_label_1("f1", f1_of_confusions, "harmonic mean of precision and recall of label 1"),
    "f1_macro": _of_every_label("f1", f1_of_confusions),
    "matthews_correlation": _build(
        "matthews_correlation",
        compute_matthews_correlation,
        matthews_correlation_of_confusions,
        "correlation of predicted and right labels; 0 is no better than chance",
        low=-1.0,
    ),
    "precision": _of_label_1("precision", precision_of_confusions, "share of rows predicted as label 1 that are"),
    "precision_macro": _of_every_label("precision", precision_of_confusions),
    "recall": _of_label_1("recall", recall_of_confusions, "share of rows of label 1 that are found"),
    "recall_macro": _of_every_label("recall", recall_of_confusions),
}

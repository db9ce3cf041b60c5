"""The score of a predictor that has only seen the training labels: what a model has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.metrics.metric import Array, compute_metrics, load_metric

if TYPE_CHECKING:
    from collections.abc import Sequence


def majority_baseline(
    names: Sequence[str], train_labels: Array, references: Array, num_labels: int
) -> dict[str, float]:
    """Score the most frequent training label, or the training mean for regression, on every row.

    Correlations with a constant are not defined and stand as 0, as in `compute_metrics`.

    Args:
        names: Metrics of one kind, as names or aliases.
        train_labels: Labels of the training rows, shape (m,); of equally frequent ones the lowest is taken.
        references: Labels of the evaluated rows, shape (n,).
        num_labels: Number of labels; 1 for regression.

    Returns:
        Values by result key.

    Raises:
        KeyError: A name is unknown.
        ValueError: There is no row, or a label is out of range.
    """
    import numpy as np

    if not names:
        return {}
    labels = np.asarray(train_labels).reshape(-1)
    if not labels.size:
        raise ValueError("a baseline needs at least one training label")
    is_regression = load_metric(names[0]).kind == "regression"
    guess = labels.mean(dtype=np.float64) if is_regression else np.bincount(labels.astype(np.int64)).argmax()
    predictions = np.full(np.asarray(references).size, guess)
    return compute_metrics(names, predictions, references, num_labels, quiet=True)

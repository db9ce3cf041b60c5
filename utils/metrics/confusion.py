"""Counts per label read off confusion matrices, many of them at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from utils.metrics.metric import Array


def count_confusions(predictions: Array, references: Array, num_labels: int) -> Array:
    """Count how often each label is predicted for each: shape (labels, labels), rows are references."""
    import numpy as np

    cells = np.bincount(references * num_labels + predictions, minlength=num_labels**2)
    return cells.reshape(num_labels, num_labels)


def hits(confusions: Array) -> Array:
    """Rows of each label that are predicted right: (r, labels, labels) to (r, labels)."""
    import numpy as np

    return np.asarray(np.diagonal(confusions, axis1=-2, axis2=-1))


def times_predicted(confusions: Array) -> Array:
    """Rows for which each label is predicted: (r, labels, labels) to (r, labels)."""
    import numpy as np

    return np.asarray(confusions.sum(axis=-2), dtype=np.float64)


def times_right(confusions: Array) -> Array:
    """Rows for which each label is the right one: (r, labels, labels) to (r, labels)."""
    import numpy as np

    return np.asarray(confusions.sum(axis=-1), dtype=np.float64)


def divide(above: Array, below: Array) -> Array:
    """Divide; nothing by nothing is nan, without a warning of numpy's."""
    import numpy as np

    shape = np.broadcast_shapes(np.shape(above), np.shape(below))
    return np.divide(above, below, out=np.full(shape, np.nan), where=np.asarray(below) != 0)


def average_labels(values: Array, confusions: Array) -> Array:
    """Average over the labels that occur as prediction or reference: (r, labels) to (r,); nan counts as 0."""
    import numpy as np

    occurs = (times_predicted(confusions) + times_right(confusions)) > 0
    return np.asarray(np.where(occurs, np.nan_to_num(values), 0.0).sum(axis=-1) / occurs.sum(axis=-1))

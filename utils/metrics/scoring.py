"""Scores predictions against references with several metrics at once, and computes baselines."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from numbers import Real

from utils.core.errors import UserError
from utils.metrics.metric import Array, Kind, Metric, load_metric

logger = logging.getLogger(__name__)


def compute_metrics(
    names: Iterable[str],
    predictions: Array,
    references: Array,
    num_labels: int,
    *,
    quiet: bool = False,
) -> dict[str, float]:
    """Compute several metrics by name or alias; undefined metrics share one warning, unless `quiet`.

    Predictions and references are label ids (not logits), values for regression or texts for generation, of shape (n,)
    or (n, 1); `num_labels` is 1 for regression and generation.

    Returns:
        Values by result key (see `result_key`).

    Raises:
        KeyError: A name is unknown.
        ValueError: There are no rows, the shapes differ, or a label is out of range.
    """
    values: dict[str, float] = {}
    undefined: list[str] = []
    why = ""
    for metric in [load_metric(name).for_labels(num_labels) for name in names]:
        kind = _fit_kind(metric, predictions)
        predicted, expected = check_rows(kind, predictions, references, num_labels)
        value = _score(metric, predicted, expected)
        if value is None:
            undefined.append(f"{metric.name} counts as {metric.undefined:g}")
            why = why or _describe_rows(predicted, expected)
        values[metric.name] = metric.undefined if value is None else value
    if undefined and not quiet:
        logger.warning("%s: %s", why, ", ".join(undefined))
    return values


def majority_baseline(
    names: Sequence[str], train_labels: Array, references: Array, num_labels: int
) -> dict[str, float]:
    """Score a constant prediction: the most frequent training label, or the training mean for regression.

    It is what a model has to beat. Among equally frequent labels the lowest is used. Correlations with a constant are
    undefined and count as 0, as in `compute_metrics`, whose result and errors apply.
    """
    import numpy as np

    if not names:
        return {}
    labels = np.asarray(train_labels).reshape(-1)
    if not labels.size:
        raise ValueError("a baseline needs at least one training label")
    is_regression = num_labels == 1
    guess = labels.mean(dtype=np.float64) if is_regression else np.bincount(labels.astype(np.int64)).argmax()
    predictions = np.full(np.asarray(references).size, guess)
    return compute_metrics(names, predictions, references, num_labels, quiet=True)


def check_rows(kind: Kind, predictions: Array, references: Array, num_labels: int) -> tuple[Array, Array]:
    """Convert both to shape (n,): int64 for labels, float64 for values, object for texts.

    Raises:
        ValueError: There are no rows, the shapes differ, or a label is out of range.
    """
    columns = [_flatten(values, kind) for values in (predictions, references)]
    if columns[0].shape != columns[1].shape or not columns[0].size:
        counts = f"{columns[0].size} predictions and {columns[1].size} references"
        raise ValueError(f"a metric needs as many predictions as references, at least one; got {counts}")
    for what, values in zip(("prediction", "reference"), columns, strict=True):
        if kind == "classification" and (values.min() < 0 or values.max() >= num_labels):
            wrong = values.min() if values.min() < 0 else values.max()
            raise ValueError(f"a {what} is the label {wrong}; labels go from 0 to {num_labels - 1}")
    return columns[0], columns[1]


def _fit_kind(metric: Metric, predictions: Array) -> Kind:
    import numpy as np

    fits = metric.fits_any and metric.kind == "generation" and np.asarray(predictions).dtype.kind in "fiu"
    return "regression" if fits else metric.kind


def _flatten(values: Array, kind: Kind) -> Array:
    """Drop a trailing axis of length 1, but never the axis of the rows."""
    import numpy as np

    array = np.asarray(values, dtype=object if kind == "generation" else None)
    if array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 1):
        raise ValueError(f"expected one value per row, got shape {array.shape}; take the argmax of logits first")
    flat = array.reshape(-1)
    if kind == "generation":
        return flat
    if kind == "regression":
        return flat.astype(np.float64)
    labels = flat.astype(np.int64)
    # A value such as 0.7 is a logit or a score, passed by mistake.
    if not np.array_equal(labels, flat):
        raise ValueError(f"labels are whole numbers, got {flat[labels != flat][0]}")
    return labels


def _score(metric: Metric, predictions: Array, references: Array) -> float | None:
    """Score rows; None if the metric is undefined on them."""
    import numpy as np

    if metric.kind != "generation" and not np.isfinite(predictions).all():
        return None
    value = metric.score(predictions, references)
    if not isinstance(value, Real):  # a user's own metric
        raise UserError(f"the metric {metric.name} returned {value!r}, which is not a number")
    return float(value) if np.isfinite(value) else None


def _describe_rows(predictions: Array, references: Array) -> str:
    """Explain why a metric is undefined on these rows."""
    import numpy as np

    num_rows = len(predictions)
    if predictions.dtype == object:
        return f"none of {num_rows} references has an answer"
    if num_broken := int((~np.isfinite(predictions)).sum()):
        return f"{num_broken} of {num_rows} predictions are not finite numbers"
    if num_rows == 1:
        return "there is only one row"
    for what, values in (("predictions", predictions), ("references", references)):
        if (values == values[0]).all():
            return f"all {num_rows} {what} are {values[0]:g}"
    return f"these {num_rows} rows hold too few different values"

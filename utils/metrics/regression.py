"""Metrics of predicted values: Pearson and Spearman correlation, and the mean squared error."""

from __future__ import annotations

import warnings

from utils.metrics.metric import Array, Metric


def compute_mse(predictions: Array, references: Array) -> float:
    """Compute the mean squared error (Gauss 1821, Theoria combinationis), which is also the training loss."""
    from sklearn.metrics import mean_squared_error

    return float(mean_squared_error(references, predictions))


def mse_of_samples(predictions: Array, references: Array) -> Array:
    """Compute the mean squared error of each row of (r, n) predictions and references."""
    import numpy as np

    return np.asarray(((predictions - references) ** 2).mean(axis=1))


def compute_pearson(predictions: Array, references: Array) -> float:
    """Compute the Pearson correlation (1895, doi:10.1098/rspl.1895.0041), one of GLUE's two metrics for STS-B.

    nan if all predictions, or all references, are equal.
    """
    from scipy import stats

    if (predictions == predictions[0]).all() or (references == references[0]).all():
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(stats.pearsonr(predictions, references).statistic)


def pearson_of_samples(predictions: Array, references: Array) -> Array:
    """Compute the Pearson correlation of each row of (r, n) predictions and references."""
    import numpy as np

    constant = np.ptp(predictions, axis=1) * np.ptp(references, axis=1) == 0
    spreads = [values - values.mean(axis=1, keepdims=True) for values in (predictions, references)]
    norms = [np.where(constant, np.nan, np.linalg.norm(spread, axis=1)) for spread in spreads]
    product = np.einsum("rn,rn->r", spreads[0], spreads[1])
    return np.clip(product / norms[0] / norms[1], -1.0, 1.0)


def compute_spearmanr(predictions: Array, references: Array) -> float:
    """Compute the Spearman rank correlation (1904, doi:10.2307/1412159), one of GLUE's two metrics for STS-B.

    nan if all predictions, or all references, are equal. Equal values share their mean rank.
    """
    from scipy import stats

    if (predictions == predictions[0]).all() or (references == references[0]).all():
        return float("nan")
    return float(stats.spearmanr(predictions, references).statistic)


def spearmanr_of_samples(predictions: Array, references: Array) -> Array:
    """Compute the Spearman correlation of each row of (r, n) predictions and references."""
    return pearson_of_samples(_rank_rows(predictions), _rank_rows(references))


def _rank_rows(samples: Array) -> Array:
    """Rank each row of (r, n) from 1, with ties sharing their mean rank.

    Counting each distinct value in a row is many times faster than sorting every row, since resamples of one set share
    their values.
    """
    import numpy as np

    values, codes = np.unique(samples, return_inverse=True)
    num_rows, num_values = len(samples), len(values)
    codes = codes.reshape(samples.shape)
    # One bincount for all rows: a cell for each pair of row and value.
    cells = (codes + num_values * np.arange(num_rows)[:, None]).ravel()
    counts = np.bincount(cells, minlength=num_rows * num_values).reshape(num_rows, num_values)
    # Of c equal values that end at rank e, the mean rank is e - (c - 1) / 2.
    mean_ranks = counts.cumsum(axis=1) - (counts - 1) / 2
    return np.take_along_axis(mean_ranks, codes, axis=1)


TABLE: dict[str, Metric] = {
    "mse": Metric(
        "mse", "regression", 0.0, float("inf"), False, compute_mse,
        "mean squared difference of predicted and right values", over_samples=mse_of_samples, undefined=float("inf"),
    ),
    "pearson": Metric(
        "pearson", "regression", -1.0, 1.0, True, compute_pearson,
        "linear correlation of predicted and right values", over_samples=pearson_of_samples,
    ),
    "spearmanr": Metric(
        "spearmanr", "regression", -1.0, 1.0, True, compute_spearmanr,
        "correlation of the ranks of predicted and right values", over_samples=spearmanr_of_samples,
    ),
}  # fmt: skip

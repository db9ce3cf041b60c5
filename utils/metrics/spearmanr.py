"""The correlation of the ranks of predicted and right values."""

from __future__ import annotations

from utils.metrics.metric import Array, Metric
from utils.metrics.pearson import pearson_of_samples


def compute_spearmanr(predictions: Array, references: Array) -> float:
    """Compute Spearman's rank correlation (1904, doi:10.2307/1412159), one of GLUE's two for STS-B.

    Equal values share the mean of their ranks.

    Returns:
        -1 to 1; nan when all predictions, or all references, are the same value.
    """
    from scipy import stats

    if (predictions == predictions[0]).all() or (references == references[0]).all():
        return float("nan")
    return float(stats.spearmanr(predictions, references).statistic)


def spearmanr_of_samples(predictions: Array, references: Array) -> Array:
    """Compute Spearman's correlation of each row of (r, n) predictions and references."""
    return pearson_of_samples(_rank_rows(predictions), _rank_rows(references))


def _rank_rows(samples: Array) -> Array:
    """Rank each row of (r, n) from 1, ties sharing their mean rank.

    Counting how often each distinct value occurs in a row is many times faster than sorting every row,
    since resamples of one set share their values.
    """
    import numpy as np

    values, codes = np.unique(samples, return_inverse=True)
    num_rows, num_values = len(samples), len(values)
    codes = codes.reshape(samples.shape)
    cells = (codes + num_values * np.arange(num_rows)[:, None]).ravel()
    counts = np.bincount(cells, minlength=num_rows * num_values).reshape(num_rows, num_values)
    mean_ranks = counts.cumsum(axis=1) - (counts - 1) / 2
    return np.take_along_axis(mean_ranks, codes, axis=1)


METRIC = Metric(
    name="spearmanr",
    kind="regression",
    low=-1.0,
    high=1.0,
    greater_is_better=True,
    score=compute_spearmanr,
    description="correlation of the ranks of predicted and right values",
    over_samples=spearmanr_of_samples,
)

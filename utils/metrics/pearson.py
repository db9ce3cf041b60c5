"""The linear correlation of predicted and right values."""

from __future__ import annotations

import warnings

from utils.metrics.metric import Array, Metric


def compute_pearson(predictions: Array, references: Array) -> float:
    """Compute Pearson's correlation (1895, doi:10.1098/rspl.1895.0041), one of GLUE's two for STS-B.

    Returns:
        -1 to 1; nan when all predictions, or all references, are the same value.
    """
    from scipy import stats

    if (predictions == predictions[0]).all() or (references == references[0]).all():
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        return float(stats.pearsonr(predictions, references).statistic)


def pearson_of_samples(predictions: Array, references: Array) -> Array:
    """Compute Pearson's correlation of each row of (r, n) predictions and references."""
    import numpy as np

    constant = np.ptp(predictions, axis=1) * np.ptp(references, axis=1) == 0
    spreads = [values - values.mean(axis=1, keepdims=True) for values in (predictions, references)]
    norms = [np.where(constant, np.nan, np.linalg.norm(spread, axis=1)) for spread in spreads]
    product = np.einsum("rn,rn->r", spreads[0], spreads[1])
    return np.clip(product / norms[0] / norms[1], -1.0, 1.0)


METRIC = Metric(
    name="pearson",
    kind="regression",
    low=-1.0,
    high=1.0,
    greater_is_better=True,
    score=compute_pearson,
    description="linear correlation of predicted and right values",
    over_samples=pearson_of_samples,
)

"""Find collapsed runs, so that a mean including them is not mistaken for a method's typical result."""

from __future__ import annotations

from typing import Literal

from utils.benchmark.statistics import Stat, SummaryRow, compute_stat, is_more_better
from utils.results.labels import is_score

Collapse = Literal["at the majority baseline", "far below the other seeds"]

FAR_DEVIATIONS, FAR_SCORE = 5.0, 0.05
"""Minimum distance of a collapsed run from the median, in robust deviations and in score."""
_FEWEST = 3  # seeds for a meaningful median
_ROUNDING = 1e-9


def find_collapsed(row: SummaryRow) -> dict[int, Collapse]:
    """Find a row's collapsed runs by seed; none unless its metric is a score of which greater is better.

    A run has collapsed if it scores no more than always predicting the most frequent label or, with at least three
    seeds, is below their median by more than 5 robust deviations (1.4826 times the median absolute deviation, which
    estimates the standard deviation of normal values) and by more than 5 points.
    """
    if row.metric is None or not is_score(row.metric) or not is_more_better(row.metric):
        return {}
    values = row.values
    median = values.median()
    far = max(FAR_DEVIATIONS * 1.4826 * (values - median).abs().median(), FAR_SCORE)
    found: dict[int, Collapse] = {}
    for outcome in row.outcomes:
        seed, record = outcome.run.seed, outcome.record
        if seed not in values or record is None:
            continue
        baseline = (record.baseline or {}).get(row.metric + row.suffix)
        if baseline is not None and values[seed] <= baseline + _ROUNDING:
            found[seed] = "at the majority baseline"
        elif len(values) >= _FEWEST and values[seed] < median - far:
            found[seed] = "far below the other seeds"
    return found


def measure_without(row: SummaryRow, collapsed: dict[int, Collapse]) -> Stat | None:
    """Compute a row's own metric over the seeds that have not collapsed; None if all have."""
    return compute_stat(row.values.drop(list(collapsed)))

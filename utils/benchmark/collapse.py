"""Finds the runs that have collapsed, so that a mean with them does not pass for what a method does."""

from __future__ import annotations

from typing import Literal

from utils.benchmark.statistics import Stat, SummaryRow, compute_stat, is_more_better
from utils.results.labels import is_score

Collapse = Literal["at the majority baseline", "far below the other seeds"]

FAR_DEVIATIONS, FAR_SCORE = 5.0, 0.05
"""So many robust deviations, and at least so much of the score, lie between a collapsed run and the median."""
_FEWEST = 3  # seeds whose median says anything
_ROUNDING = 1e-9


def find_collapsed(row: SummaryRow) -> dict[int, Collapse]:
    """Find a row's collapsed runs by their seeds; none where its metric is no score of which more is better.

    A run has collapsed where it scores no more than always guessing the commonest label does, or, of three seeds and
    more, lies below their median by more than 5 robust deviations (1.4826 times the median absolute deviation, which
    is the standard deviation of normal values) and by more than 5 points.
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
    """Measure a row's own metric over the seeds that have not collapsed; None without one."""
    return compute_stat(row.values.drop(list(collapsed)))

"""Which of two settings scored higher: only ever claimed from the seeds that both have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from utils.benchmark.aggregate import Setting, Stat, Summary, SummaryRow, compute_stat
from utils.benchmark.run_metrics import MISMATCHED
from utils.metrics.metric import load_metric

Finding = Literal["better", "worse", "not told apart", "no claim"]

_NOISE = 1e-9  # what rounding leaves of differences that are all the same


@dataclass(frozen=True)
class Comparison:
    """One task's own metric, in one setting and in the one that it is compared with."""

    task: str
    setting: Setting
    reference: Setting
    metric: str | None
    seeds: tuple[int, ...]
    """Those with a value in both."""
    difference: Stat | None
    """Setting minus reference, seed by seed; None without a common seed."""
    interval: tuple[float, float] | None
    """Student's 95 % interval of the mean difference; None where there is no claim."""
    finding: Finding
    """`better` or `worse` where the interval leaves out 0; `no claim` below two common seeds, or where the
    difference is the same with every seed, so that the seeds say nothing of its spread."""


def compare_settings(summary: Summary) -> list[Comparison]:
    """Compare, task by task, every setting with those of reference; baselines have no seeds of their own.

    The intervals hold one by one: they are not widened for the number of comparisons.
    """
    return list(_compare(summary))


def is_more_better(metric: str) -> bool:
    """Tell whether more of a metric is better."""
    try:
        return load_metric(metric.removesuffix(MISMATCHED)).greater_is_better
    except KeyError:
        return metric not in ("loss", "perplexity") and not metric.endswith("_loss")


def _compare(summary: Summary) -> Iterator[Comparison]:
    settings = [setting for setting in summary.settings if not setting.is_baseline]
    for task in summary.tasks:
        for chosen in summary.references:
            reference = summary.find_row(task, chosen)
            for setting in settings:
                row = summary.find_row(task, setting) if setting.key != chosen.key else None
                if row is not None and reference is not None:
                    yield _compare_rows(row, reference)


def _compare_rows(row: SummaryRow, reference: SummaryRow) -> Comparison:
    mine, other = row.find_values("best"), reference.find_values("best")
    metric = row.metric if row.metric == reference.metric else None
    seeds = tuple(seed for seed in mine if seed in other) if metric else ()
    difference = compute_stat([mine[seed] - other[seed] for seed in seeds])
    varies = difference is not None and (difference.deviation or 0) > _NOISE  # never with a single seed
    interval = difference.interval() if difference is not None and varies else None
    finding = _judge(metric, interval) if metric and interval else "no claim"
    return Comparison(row.task, row.setting, reference.setting, metric, seeds, difference, interval, finding)


def _judge(metric: str, interval: tuple[float, float]) -> Finding:
    low, high = interval
    if low <= 0 <= high:
        return "not told apart"
    return "better" if (low > 0) == is_more_better(metric) else "worse"

"""Rows of the table that need no run of their own: what every run measured of a predictor that learns nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from utils.benchmark.outcomes import RunOutcome

MAJORITY = "majority"


@dataclass(frozen=True)
class BaselineRow:
    """What always guessing the most frequent training label (or the mean of the training values) scores in a task."""

    task: str
    name: str
    """As in the suite's `baselines:`."""
    metrics: dict[str, float | None]
    """0 to 1 where the metric is; empty where no run has measured them, or runs disagree."""
    num_runs: int
    """Runs whose records agree on it."""
    note: str = ""
    """One sentence, where there are no metrics."""


def collect_baselines(names: Sequence[str], tasks: Iterable[str], outcomes: Sequence[RunOutcome]) -> list[BaselineRow]:
    """Collect the baselines of every task from the records of its runs.

    Each run scores the baseline on the rows that it is scored on itself, so the runs of a task agree unless their
    data differ; then nothing is shown, since it would stand beside scores of other rows.

    Args:
        names: As in the suite's `baselines:`.
        tasks: In the order of the table.
        outcomes: Of all runs.
    """
    return [_collect(name, task, outcomes) for task in tasks for name in names]


def _collect(name: str, task: str, outcomes: Sequence[RunOutcome]) -> BaselineRow:
    assert name == MAJORITY, f"got baseline {name!r}"
    records = [each.record for each in outcomes if each.run.task == task and each.status == "success"]
    found: list[dict[str, Any]] = [dict(record.baseline) for record in records if record is not None]
    found = [each for each in found if each]
    if not found:
        return BaselineRow(task, name, {}, 0, "no finished run has measured it")
    if any(each != found[0] for each in found):
        return BaselineRow(task, name, {}, 0, "the runs differ in their data, and so in this")
    return BaselineRow(task, name, found[0], len(found))

"""Prints a plan before anything is started: its runs, how they stand, and what each kind of run will train."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from utils.benchmark.counting import Count, count_runs
from utils.benchmark.plan import Plan, PlannedRun
from utils.benchmark.status import find_status

logger = logging.getLogger(__name__)


def announce_plan(plan: Plan) -> None:
    """Say what was read under an older name, what has no effect, which runs are the same, and what is missing here."""
    for notice in plan.notices:
        logger.info("note: %s", notice)
    for warning in (*plan.warnings, *(f"this machine: {each}" for each in plan.unmet)):
        logger.warning("%s", warning)


def show_plan(plan: Plan) -> dict[str, Any]:
    """Print the runs of this call, then the trainable parameters, which one process counts without weights."""
    statuses = [find_status(run) for run in plan.shard]
    for line in _write_runs(plan, statuses):
        print(line, flush=True)  # noqa: T201  the command's own output
    counts = count_runs(plan.shard)
    for line in _write_counts(plan.shard, counts):
        print(line)  # noqa: T201
    return {
        "status": "planned",
        "suite": plan.suite.section.suite,
        "output_dir": str(plan.output),
        "runs": [
            {**_describe(run), "status": status, **_measure(counts[run.name])}
            for run, status in zip(plan.shard, statuses, strict=True)
        ],
    }


def _write_runs(plan: Plan, statuses: Sequence[str]) -> list[str]:
    width = max((len(run.name) for run in plan.shard), default=0)
    lines = [f"{run.name:<{width}}  {status}" for run, status in zip(plan.shard, statuses, strict=True)]
    counted = ", ".join(f"{count} {status}" for status, count in Counter(statuses).items())
    of = "" if len(plan.shard) == len(plan.runs) else f" of the suite's {len(plan.runs)}"
    return [*lines, f"\n{len(plan.shard)} runs{of}: {counted}; folder: {plan.output}"]


def _write_counts(runs: Sequence[PlannedRun], counts: dict[str, Count]) -> list[str]:
    """Write one line for each method and grid value that decides the model; what is unknown, by its reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        grid = (f"{key}={value}" for key, value in run.grid.items() if key.split(".")[0] in ("peft", "model"))
        count = counts[run.name]
        kind = (" ".join([run.method, *grid]), _write_count(count)) if count.trainable else ("unknown", count.note)
        tasks = groups.setdefault(kind, [])
        if run.task not in tasks:
            tasks.append(run.task)
    every = len({run.task for run in runs})
    rows = [(*kind, "all tasks" if len(tasks) == every else ", ".join(tasks)) for kind, tasks in groups.items()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return ["\ntrainable parameters", *(f"{one:<{widths[0]}}  {two:<{widths[1]}}  {three}" for one, two, three in rows)]


def _write_count(count: Count) -> str:
    trainable, total = count.trainable or 0, count.total or 0
    return f"{trainable:,} of {total:,} ({100 * trainable / max(total, 1):.4g} %)"


def _describe(run: PlannedRun) -> dict[str, Any]:
    names = ("name", "task", "method", "seed", "grid", "fingerprint", "metric")
    return {**{name: getattr(run, name) for name in names}, "folder": str(run.folder)}


def _measure(count: Count) -> dict[str, Any]:
    if count.trainable is None:
        return {"trainable_params": None, "note": count.note}
    return {"trainable_params": count.trainable, "total_params": count.total}

"""runs.csv: a row per run with all keys that differ between runs and all measurements, for further analysis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from utils.benchmark.collapse import find_collapsed
from utils.benchmark.outcomes import RunOutcome, read_figures
from utils.benchmark.statistics import Summary
from utils.benchmark.text_reports import bare
from utils.benchmark.workbook import PER_RUN
from utils.results.workbook import flatten_values

_FIGURES = {
    "score": "best", "score_last_step": "last", "trainable_params": "trainable", "total_params": "total",
    "trainable_percent": "trainable_percent", "peak_memory_gb": "memory", "train_runtime_s": "seconds",
    "samples_per_s": "samples_per_s", "epochs": "epochs",
}  # fmt: skip
"""Figures by column; scores are 0 to 1."""


def render_runs(outcomes: Sequence[RunOutcome], summary: Summary) -> str:
    """Write the runs in the plan's order, including those of searches; what was not measured is empty."""
    from pandas import DataFrame

    collapsed = {
        row.outcomes_by_seed[seed].run.name: why
        for row in summary.rows
        if not row.suffix
        for seed, why in find_collapsed(row).items()
    }
    flat = [dict(flatten_values(each.run.config)) for each in outcomes]
    keys = dict.fromkeys(key for values in flat for key in values if key not in PER_RUN)
    varied = [key for key in keys if len({repr(values.get(key)) for values in flat}) > 1]
    metrics = dict.fromkeys(name for each in outcomes if each.record for name in each.record.metrics)
    rows: list[dict[str, Any]] = []
    for each, values in zip(outcomes, flat, strict=True):
        figures = read_figures(each)
        rows.append(
            {
                "run": each.run.name,
                "task": each.run.task,
                "method": each.run.method,
                "seed": each.run.seed,
                "purpose": "search" if each.run.is_search else "report",
                "status": each.status,
                "metric": figures["metric"],
                **{column: figures.get(name) for column, name in _FIGURES.items()},
                "memory_is": figures.get("memory_is"),
                **{f"metrics.{name}": each.record.metrics.get(name) if each.record else None for name in metrics},
                "collapsed": collapsed.get(each.run.name),
                **{key: values.get(key) for key in varied},
                "note": each.note or None,
            }
        )
    table = DataFrame(rows, dtype=object).map(bare)
    return str(table.to_csv(index=False, lineterminator="\n"))

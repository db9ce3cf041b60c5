"""What the tables show of one run: its record, read under the names that the columns have."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from utils.benchmark.outcomes import RunOutcome
    from utils.results.record import RunRecord

MISMATCHED = "_mm"
"""What the keys of MNLI's second evaluation set end in."""


@dataclass(frozen=True)
class RunMetrics:
    """One run's figures; scores are 0 to 1 (or -1 to 1) as in the record, and what was not measured has no key."""

    values: dict[str, float] = field(default_factory=dict)
    """By column: accuracy, trainable_percent, memory, total, trainable, loss, f1, matthews_correlation, pearson,
    spearmanr, trainable_percent_packed, best, last, interval_low, interval_high, epochs, seconds, samples_per_s."""
    metric: str | None = None
    """The task's own metric."""
    accuracy_is: str = "accuracy"
    """`pearson` where the task has no accuracy and Pearson's correlation stands in its place."""
    memory_is: str = ""
    """`vram` or `ram`; empty: not measured."""
    partial: bool = False
    """A score was measured on part of the rows only."""


def read_run_metrics(outcome: RunOutcome, suffix: str = "") -> RunMetrics:
    """Read a run's figures; only a run that succeeded has any.

    Args:
        outcome: The run.
        suffix: Of the evaluation set: `""`, or `_mm` for MNLI mismatched, from the same checkpoint.
    """
    record = outcome.record
    if record is None or outcome.status != "success":
        return RunMetrics(metric=outcome.run.metric)
    name, _ = record.read_headline()
    accuracy_is = "accuracy" if _is_number(record.metrics.get(f"accuracy{suffix}")) else "pearson"
    memory, memory_is = _read_memory(record)
    values: dict[str, float | None] = {
        "accuracy": record.metrics.get(accuracy_is + suffix),
        "memory": memory,
        "trainable_percent": record.params.trainable_percent,
        "trainable_percent_packed": record.params.trainable_percent_packed,
        "total": record.params.total,
        "trainable": record.params.trainable,
        **{key: record.metrics.get(key + suffix) for key in ("loss", "f1", "pearson", "spearmanr")},
        "matthews_correlation": record.metrics.get(f"matthews_correlation{suffix}"),
        **_read_own_metric(record, name, suffix),
        "epochs": outcome.epochs,
        "seconds": record.time.train_runtime_s,
        "samples_per_s": record.time.samples_per_s,
    }
    known = {key: float(value) for key, value in values.items() if value is not None and _is_number(value)}
    return RunMetrics(known, name, accuracy_is, memory_is, bool(record.extra.get("partial")))


def has_mismatched(outcome: RunOutcome) -> bool:
    """Tell whether a run is, or would have been, scored on MNLI's mismatched set as well."""
    if outcome.record is not None and any(name.endswith(MISMATCHED) for name in outcome.record.metrics):
        return True
    dataset = outcome.run.config.get("dataset")
    return isinstance(dataset, dict) and (dataset.get("name"), dataset.get("subset")) == ("glue", "mnli")


def _read_own_metric(record: RunRecord, name: str | None, suffix: str) -> Mapping[str, float | None]:
    """Read the task's own metric: at the weights that were kept, and at the last step."""
    if name is None:
        return {}
    best = record.metrics.get(name + suffix) if suffix else record.read_headline()[1]
    last = record.metrics_last.get(name + suffix) if record.metrics_last else best
    low, high = record.interval.get(name + suffix) or (None, None)
    return {"best": best, "last": last, "interval_low": low, "interval_high": high}


def _read_memory(record: RunRecord) -> tuple[float | None, str]:
    """Read peak memory: the GPU's where there is one, else that of the process."""
    memory = record.memory
    if memory.peak_vram_gb is not None:
        return memory.peak_vram_gb, "vram"
    if memory.device == "cuda" or memory.peak_rss_gb is None:
        return None, ""
    return memory.peak_rss_gb, "ram"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

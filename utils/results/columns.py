"""Table cells, and a record as one row of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from utils.results.labels import is_score, scale, translate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from utils.results.labels import Language
    from utils.results.record import RunRecord

Form = Literal["text", "count", "id", "decimal", "percent", "share", "fine"]
"""How a value is printed: counts with separators, ids without, decimals and percentages with two digits, shares with
more if they are small, and fine numbers with four."""


@dataclass(frozen=True)
class Cell:
    """One value of a table and its form."""

    value: Any
    """None: not measured."""
    form: Form = "text"
    mark: str = ""
    """Suffix of a number of another kind than the column's label says."""


def list_columns(record: RunRecord, language: Language = "en") -> list[tuple[str, Cell]]:
    """List a record's columns by label: the same first ones for every run, then its other scores."""
    named = [*_identity_columns(record, language), *_best_columns(record), *_cost_columns(record)]
    return [
        *((translate(key, language), cell) for key, cell in named),
        *_metric_columns(record.metrics, ""),
        *_metric_columns(record.metrics_last, f", {translate('last', language)}"),
        *(each for name, values in record.evaluation.items() for each in _set_columns(name, values, language)),
        *list_retention(record),
    ]


RETENTION = "retention "
"""Prefix of the labels of `list_retention`."""


def list_retention(record: RunRecord) -> Iterator[tuple[str, Cell]]:
    """Yield by label the scores of the base and the tuned model, and the difference with its interval."""
    for name, values in record.retention.items():
        for metric, found in values.get("metrics", {}).items():
            form: Form = "percent" if is_score(metric) else "decimal"
            shown = {which: found[which] for which in ("base", "tuned", "difference")}
            shown |= dict(zip(("difference, low", "difference, high"), found["interval"], strict=True))
            for which, value in shown.items():
                yield f"{RETENTION}{name} {metric}, {which}", Cell(scale(metric, value), form)


def count_places(value: float, form: Form) -> int:
    """Count the decimal digits with which a number of a form is shown."""
    if form in ("count", "id"):
        return 0
    if form == "fine" or (form == "share" and 0 < abs(value) < 0.1):
        return 4
    return 2


def _identity_columns(record: RunRecord, language: Language) -> Iterator[tuple[str, Cell]]:
    yield "task", Cell(record.task_name)
    yield "task_type", Cell(record.task_type)
    yield "method", Cell(record.method)
    yield "seed", Cell(record.seed, "id")
    yield "status", Cell(translate(record.status, language))


def _best_columns(record: RunRecord) -> Iterator[tuple[str, Cell]]:
    """Yield the task's own metric with interval and baseline, on one scale, and accuracy."""
    best = record.best_metric
    name = best.name if best else ""
    shown = is_score(name)
    form: Form = "percent" if shown else "decimal"
    low, high = record.interval.get(name, (None, None))
    yield "best_metric", Cell(name or None)
    yield "best_score" if shown else "best_value", Cell(_scaled(name, best.value if best else None), form)
    yield "interval_low", Cell(_scaled(name, low), form)
    yield "interval_high", Cell(_scaled(name, high), form)
    yield "baseline", Cell(_scaled(name, record.baseline.get(name)), form)
    yield "best_step", Cell(best.step if best else None, "count")
    yield "best_accuracy", Cell(_scaled("accuracy", record.metrics.get("accuracy")), "percent")


def _cost_columns(record: RunRecord) -> Iterator[tuple[str, Cell]]:
    params, memory, time, data = record.params, record.memory, record.time, record.data
    yield "trainable", Cell(params.trainable, "count")
    yield "total", Cell(params.total, "count")
    yield "trainable_percent", Cell(params.trainable_percent, "percent")
    yield "trainable_percent_packed", Cell(params.trainable_percent_packed, "percent")
    yield "device", Cell(memory.device)
    yield "peak_vram", Cell(memory.peak_vram_gb, "decimal")
    yield "peak_vram_reserved", Cell(memory.peak_vram_reserved_gb, "decimal")
    yield "peak_rss", Cell(memory.peak_rss_gb, "decimal")
    yield "train_runtime", Cell(time.train_runtime_s, "decimal")
    yield "time_to_first_step", Cell(time.time_to_first_step_s, "decimal")
    yield "samples_per_s", Cell(time.samples_per_s, "decimal")
    yield "tokens_per_s", Cell(time.tokens_per_s, "decimal")
    yield "total_time", Cell(time.total_s, "decimal")
    yield "train_rows", Cell(data.train_rows, "count")
    yield "eval_rows", Cell(data.eval_rows, "count")
    yield "truncated_rows", Cell(data.truncated_rows, "count")
    yield "dropped_rows", Cell(data.dropped_rows, "count")


def _metric_columns(values: Mapping[str, Any], after: str, before: str = "") -> Iterator[tuple[str, Cell]]:
    """Yield one column per score; texts and counts (a protocol, a number of rows) unchanged."""
    for name, value in values.items():
        if isinstance(value, float):
            percent = is_score(name)
            label = f"{before}{name}{' (%)' if percent else ''}{after}"
            yield label, Cell(scale(name, value), "percent" if percent else "decimal")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield f"{before}{name}{after}", Cell(value, "count")
        elif not isinstance(value, (dict, list, tuple)):  # nested facts stay in results.json
            yield f"{before}{name}{after}", Cell(value)


def _set_columns(name: str, values: Mapping[str, Any], language: Language) -> Iterator[tuple[str, Cell]]:
    """Yield one column per score of the kept weights, then of the best and the last evaluated step."""
    if name == "combined":  # sums over sets, not percentages
        for key, value in values.items():
            if isinstance(value, int | float | str):
                form: Form = "fine" if isinstance(value, float) else "text" if isinstance(value, str) else "count"
                yield f"{name} {key}", Cell(value, form)
        return
    yield from _metric_columns(values, "", f"{name} ")
    for which in ("best_combined", "last"):
        beside = {key: value for key, value in (values.get(which) or {}).items() if key != "step"}
        yield from _metric_columns(beside, f", {translate(which, language)}", f"{name} ")


def _scaled(name: str, value: float | None) -> float | None:
    return None if value is None else scale(name, value)

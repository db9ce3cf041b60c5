"""A record as one row of named columns, as sheets and tables of many runs show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from utils.results.labels import is_score, scale, translate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from utils.results.labels import Language
    from utils.results.record import RunRecord

Form = Literal["text", "count", "id", "decimal", "percent", "share", "fine"]
"""How a value is printed: counts with separators, an id without, decimals and percents with two places, a share with
more where it is small, and fine numbers with four."""


@dataclass(frozen=True)
class Column:
    """One value of a record under its name."""

    label: str
    value: Any
    """None: not measured."""
    form: Form
    mark: str = ""
    """Shown after a number to say that it is of another kind than its column's name tells."""


def list_columns(record: RunRecord, language: Language = "en") -> list[Column]:
    """List a record's columns: the same first ones for every run, then its other scores."""
    return [
        *_identity_columns(record, language),
        *_best_columns(record, language),
        *_cost_columns(record, language),
        *_metric_columns(record.metrics, ""),
        *_metric_columns(record.metrics_last, f", {translate('last', language)}"),
        *(each for name, values in record.evaluation.items() for each in _set_columns(name, values, language)),
    ]


def count_places(value: float, form: Form) -> int:
    """Count the digits after the point with which a number of a form is shown."""
    if form in ("count", "id"):
        return 0
    if form == "fine" or (form == "share" and 0 < abs(value) < 0.1):
        return 4
    return 2


def _identity_columns(record: RunRecord, language: Language) -> Iterator[Column]:
    yield Column(translate("task", language), record.task_name, "text")
    yield Column(translate("task_type", language), record.task_type, "text")
    yield Column(translate("method", language), record.method, "text")
    yield Column(translate("seed", language), record.seed, "id")
    yield Column(translate("status", language), translate(record.status, language), "text")


def _best_columns(record: RunRecord, language: Language) -> Iterator[Column]:
    """The task's own metric with its interval and baseline, on one scale, and accuracy beside it."""
    best = record.best_metric
    name = best.name if best else ""
    shown = is_score(name)
    form: Form = "percent" if shown else "decimal"
    low, high = record.interval.get(name, (None, None))
    yield Column(translate("best_metric", language), name or None, "text")
    yield Column(
        translate("best_score" if shown else "best_value", language),
        _scaled(name, best.value if best else None),
        form,
    )
    yield Column(translate("interval_low", language), _scaled(name, low), form)
    yield Column(translate("interval_high", language), _scaled(name, high), form)
    yield Column(translate("baseline", language), _scaled(name, record.baseline.get(name)), form)
    yield Column(translate("best_step", language), best.step if best else None, "count")
    accuracy = _scaled("accuracy", record.metrics.get("accuracy"))
    yield Column(translate("best_accuracy", language), accuracy, "percent")


def _cost_columns(record: RunRecord, language: Language) -> Iterator[Column]:
    params, memory, time, data = record.params, record.memory, record.time, record.data
    rows: list[tuple[str, Any, Form]] = [
        ("trainable", params.trainable, "count"),
        ("total", params.total, "count"),
        ("trainable_percent", params.trainable_percent, "percent"),
        ("trainable_percent_packed", params.trainable_percent_packed, "percent"),
        ("device", memory.device, "text"),
        ("peak_vram", memory.peak_vram_gb, "decimal"),
        ("peak_vram_reserved", memory.peak_vram_reserved_gb, "decimal"),
        ("peak_rss", memory.peak_rss_gb, "decimal"),
        ("train_runtime", time.train_runtime_s, "decimal"),
        ("time_to_first_step", time.time_to_first_step_s, "decimal"),
        ("samples_per_s", time.samples_per_s, "decimal"),
        ("tokens_per_s", time.tokens_per_s, "decimal"),
        ("total_time", time.total_s, "decimal"),
        ("train_rows", data.train_rows, "count"),
        ("eval_rows", data.eval_rows, "count"),
        ("truncated_rows", data.truncated_rows, "count"),
        ("dropped_rows", data.dropped_rows, "count"),
    ]
    for key, value, form in rows:
        yield Column(translate(key, language), value, form)


def _metric_columns(values: Mapping[str, Any], after: str, before: str = "") -> Iterator[Column]:
    """One column per score; texts and counts among them (a protocol, a number of rows) as they are."""
    for name, value in values.items():
        if isinstance(value, float):
            unit = " (%)" if is_score(name) else ""
            form: Form = "percent" if is_score(name) else "decimal"
            yield Column(f"{before}{name}{unit}{after}", scale(name, value), form)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield Column(f"{before}{name}{after}", value, "count")
        elif not isinstance(value, (dict, list, tuple)):  # nested facts stay in results.json
            yield Column(f"{before}{name}{after}", value, "text")


def _set_columns(name: str, values: Mapping[str, Any], language: Language) -> Iterator[Column]:
    """One column per score of the kept weights, then of the best and the last step that was evaluated."""
    if name == "combined":  # sums over sets, no percentages
        for key, value in values.items():
            if isinstance(value, int | float | str):
                form: Form = "fine" if isinstance(value, float) else "text" if isinstance(value, str) else "count"
                yield Column(f"{name} {key}", value, form)
        return
    yield from _metric_columns(values, "", f"{name} ")
    for which in ("best_combined", "last"):
        beside = {key: value for key, value in (values.get(which) or {}).items() if key != "step"}
        yield from _metric_columns(beside, f", {translate(which, language)}", f"{name} ")


def _scaled(name: str, value: float | None) -> float | None:
    return None if value is None else scale(name, value)

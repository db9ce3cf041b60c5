"""The columns of a suite's tables, in the order that users of QST know, and the rows under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from utils.benchmark.aggregate import Average, Setting, Summary, SummaryRow
from utils.benchmark.naming import shorten_keys
from utils.results.columns import Column, Form
from utils.results.labels import Language, is_score, phrase, translate

RowKind = Literal["runs", "baseline", "average"]
Cells = Mapping[str, Column]
"""A row's cells by column; one without a value may be left out."""

PEARSON_MARK = "*"

_FIGURES: dict[str, tuple[str, Form]] = {
    "best_accuracy": ("accuracy", "percent"),
    "trainable_percent": ("trainable_percent", "share"),
    "peak_memory_gb": ("memory", "decimal"),
    "total": ("total", "count"),
    "trainable": ("trainable", "count"),
    "loss": ("loss", "fine"),
    "f1": ("f1", "percent"),
    "matthews_correlation": ("matthews_correlation", "percent"),
    "pearson": ("pearson", "percent"),
    "spearmanr": ("spearmanr", "percent"),
    "trainable_percent_packed": ("trainable_percent_packed", "share"),
    "epochs": ("epochs", "text"),
    "train_runtime": ("seconds", "decimal"),
    "samples_per_s": ("samples_per_s", "decimal"),
}
"""By column, the figure that it shows and how."""
_OWN_METRIC = (
    "task_metric", "task_metric_best", "task_metric_last", "interval_low", "interval_high", "interval_over",
)  # fmt: skip
_OVER_SEEDS = ("mean", "deviation", "num_seeds")
_LAST = ("epochs", "train_runtime", "samples_per_s", "status")
_FIRST = tuple(key for key in _FIGURES if key not in _LAST)
_AVERAGED = ("best_accuracy", "trainable_percent", "peak_memory_gb", "trainable_percent_packed")


@dataclass(frozen=True)
class TableRow:
    """One row of a table."""

    cells: tuple[Column, ...]
    kind: RowKind
    task: str
    is_complete: bool
    """Every planned run of it has a result."""


@dataclass(frozen=True)
class ResultTable:
    """Rows under the same columns."""

    keys: tuple[str, ...]
    """A name of each column that no language changes."""
    labels: tuple[str, ...]
    rows: tuple[TableRow, ...]
    num_fixed: int
    """Leading columns that say what a row is of."""


def build_summary_table(summary: Summary, language: Language) -> ResultTable:
    """Build the table over seeds: one row per task and setting, baselines among them, averages at the end."""
    identity = _Identity(summary, language)
    keys = (*identity.keys, *_FIRST, *_OWN_METRIC, *_OVER_SEEDS, *_LAST)
    rows: list[tuple[Cells, SummaryRow | Average]] = [
        (identity.show(row.task, row.setting) | _show_row(row, language), row) for row in summary.rows
    ]
    for average in summary.averages:
        name = phrase("average_of", language, tasks=len(average.tasks))
        rows.append((identity.show(name, average.setting) | _show_average(average, language), average))
    return _build_table(keys, identity, rows, language)


def build_run_table(summary: Summary, language: Language) -> ResultTable:
    """Build the table of single runs; MNLI's run has two rows."""
    identity = _Identity(summary, language)
    keys = (*identity.keys, "seed", *_FIRST, *_OWN_METRIC, *_LAST, "run", "note")
    rows: list[tuple[Cells, SummaryRow | Average]] = []
    for row in summary.rows:
        for outcome in row.outcomes:
            seed = outcome.run.seed
            single = replace(row, outcomes=(outcome,), figures={seed: row.figures[seed]})
            own = {"seed": _text(seed, "id"), "run": _text(outcome.run.name), "note": _text(outcome.note or None)}
            rows.append((identity.show(row.task, row.setting) | own | _show_row(single, language), single))
    table = _build_table(keys, identity, rows, language)
    return replace(table, num_fixed=table.num_fixed + 1)


def name_setting(setting: Setting, grid_keys: Sequence[str]) -> str:
    """Name a setting as `lora, lora_r=4`."""
    shorts = shorten_keys(grid_keys)
    values = (f"{shorts[key]}={setting.grid[key]}" for key in grid_keys if key in setting.grid)
    return ", ".join([setting.method, *values])


def show_status(row: SummaryRow, language: Language) -> str:
    """Say how a row's runs stand: `success`, or how many of how many, and what became of the others."""
    others = [each for each in row.outcomes if each.status != "success"]
    if len(row.outcomes) == 1 or not others:
        return translate(row.outcomes[0].status, language) if row.outcomes else row.note
    parts = [
        phrase("seed_status", language, seed=each.run.seed, status=translate(each.status, language)) for each in others
    ]
    return "; ".join([f"{len(row.outcomes) - len(others)}/{len(row.outcomes)}", *parts])


def show_absence(row: SummaryRow, language: Language) -> str:
    """Say in one word why a row has no value: what became of its runs, or `missing`."""
    statuses = {str(each.status) for each in row.outcomes}
    if len(statuses) == 1 and "success" not in statuses:
        return translate(statuses.pop(), language)
    return translate("missing", language)


class _Identity:
    """The columns that say what a row is of: the task, and whatever else tells rows apart."""

    def __init__(self, summary: Summary, language: Language) -> None:
        self._grid = shorten_keys(summary.grid_keys)
        several = len({(each.method, each.is_baseline) for each in summary.settings}) > 1
        self.keys = ("task", *(["method"] if several else []), *(f"grid {key}" for key in self._grid))
        self.labels = {"task": translate("task", language), "method": translate("method", language)} | {
            f"grid {key}": short for key, short in self._grid.items()
        }

    def show(self, task: str, setting: Setting) -> dict[str, Column]:
        """Show a row's task and setting."""
        grid = {f"grid {key}": _text(_plain(value)) for key, value in setting.grid.items()}
        return {"task": _text(task), "method": _text(setting.method), **grid}


def _build_table(
    keys: Sequence[str],
    identity: _Identity,
    rows: Sequence[tuple[Cells, SummaryRow | Average]],
    language: Language,
) -> ResultTable:
    labels = tuple(identity.labels.get(key) or translate(key, language) for key in keys)
    built = []
    for cells, source in rows:
        placed = tuple(
            replace(cells.get(key, _text(None)), label=label) for key, label in zip(keys, labels, strict=True)
        )
        task = "" if isinstance(source, Average) else source.task
        built.append(TableRow(placed, _kind_of(source), task, _is_complete(source)))
    return ResultTable(tuple(keys), labels, tuple(built), len(identity.keys))


def _kind_of(source: SummaryRow | Average) -> RowKind:
    if isinstance(source, Average):
        return "average"
    return "baseline" if source.setting.is_baseline else "runs"


def _is_complete(source: SummaryRow | Average) -> bool:
    if isinstance(source, Average):
        return not source.missing
    return all(each.status == "success" for each in source.outcomes)


def _show_row(row: SummaryRow, language: Language) -> dict[str, Column]:
    cells = {}
    for key, (figure, form) in _FIGURES.items():
        if (measured := row.measure(figure)) is not None:
            value = measured.mean * 100 if form == "percent" else measured.mean
            cells[key] = Column("", _neat(value, form), form, _mark(row, figure, language))
    cells |= _show_own_metric(row, language)
    if row.note or (row.outcomes and not any(each.status == "success" for each in row.outcomes)):
        absent = _text(show_absence(row, language))
        cells |= {"best_accuracy": absent, "task_metric_best": absent}
    return cells | {"status": _text(show_status(row, language))}


def _mark(row: SummaryRow, figure: str, language: Language) -> str:
    kinds = row.find_kinds(figure)
    if kinds == {"pearson"}:
        return PEARSON_MARK
    return f" {translate('ram', language)}" if kinds == {"ram"} else ""


def _show_own_metric(row: SummaryRow, language: Language) -> dict[str, Column]:
    """Show the task's own metric: best and last, an interval that says what it is over, and the spread over seeds."""
    cells = {"task_metric": _text(", ".join(row.metrics) or None)}
    best, last = row.measure("best"), row.measure("last")
    if row.metric is None or best is None:
        return cells
    form: Form = "percent" if is_score(row.metric) else "fine"
    factor = 100 if form == "percent" else 1

    def show(value: float | None) -> Column:
        return Column("", None if value is None else value * factor, form)

    (low, high), over = _find_interval(row)
    return cells | {
        "task_metric_best": show(best.mean),
        "task_metric_last": show(last.mean if last else None),
        "interval_low": show(low),
        "interval_high": show(high),
        "interval_over": _text(translate(over, language) if over else None),
        "mean": show(best.mean),
        "deviation": show(best.deviation),
        "num_seeds": Column("", None if row.setting.is_baseline else best.n, "count"),
    }


def _find_interval(row: SummaryRow) -> tuple[tuple[float | None, float | None], str]:
    """Find the 95 % interval: over seeds where there are several, else that of the run's evaluation rows."""
    best = row.measure("best")
    if best is not None and (over_seeds := best.interval()) is not None:
        return over_seeds, "over_seeds"
    low, high = row.measure("interval_low"), row.measure("interval_high")
    return ((low.mean, high.mean), "over_rows") if low and high else ((None, None), "")


def _show_average(average: Average, language: Language) -> dict[str, Column]:
    """Show what can be averaged over tasks, and what stands behind it."""
    done, planned = average.num_runs
    behind = phrase("runs_of", language, done=done, planned=planned)
    cells = {"task_metric": _text(", ".join(average.metrics) or None)}
    told = [] if average.setting.is_baseline else [behind]
    if average.missing:
        absent = _text(translate("missing", language))
        told.append(phrase("without", language, tasks=", ".join(average.missing)))
        cells |= {"best_accuracy": absent, "task_metric_best": absent}
    cells["status"] = _text("; ".join(told) or None)
    if average.missing:
        return cells
    for key in _AVERAGED:
        figure, form = _FIGURES[key]
        if (mean := average.mean(figure)) is not None:
            kinds = {_mark(row, figure, language) for row in average.rows}
            mark = max(kinds)  # a mixed average of accuracies carries the mark of what is mixed in
            cells[key] = Column("", mean * 100 if form == "percent" else mean, form, mark)
    over_seeds = average.measure_over_seeds()
    values = {
        "task_metric_best": average.mean("best"),
        "task_metric_last": average.mean("last"),
        "mean": average.mean("best"),
        "deviation": over_seeds.deviation if over_seeds else None,
    }
    shown = {key: Column("", value * 100, "percent") for key, value in values.items() if value is not None}
    if over_seeds and not average.setting.is_baseline:
        shown["num_seeds"] = Column("", over_seeds.n, "count")
    return cells | shown


def _neat(value: float, form: Form) -> float:
    """Keep counts whole where they are, and epochs short."""
    if form == "count" and value.is_integer():
        return int(value)
    return float(f"{value:.4g}") if form == "text" else value


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _text(value: object, form: Form = "text") -> Column:
    return Column("", value, form)

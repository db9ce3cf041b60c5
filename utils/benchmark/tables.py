"""The columns and rows of a suite's tables, in the order familiar to users of QST."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from utils.benchmark.aggregate import Comparison
from utils.benchmark.combining import shorten_keys
from utils.benchmark.statistics import Average, Summary, SummaryRow
from utils.results.columns import RETENTION, Cell, Form, list_retention
from utils.results.labels import Language, is_score, translate
from utils.results.sentences import phrase

RowKind = Literal["runs", "baseline", "average"]
Cells = dict[str, Cell]
"""A row's cells by column; cells without a value may be missing."""

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
"""Figure and form by column."""
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

    cells: tuple[Cell, ...]
    kind: RowKind
    task: str
    is_complete: bool
    """Whether every planned run of it has a result."""


@dataclass(frozen=True)
class ResultTable:
    """Rows with the same columns."""

    keys: tuple[str, ...]
    """Language-independent names of the columns."""
    labels: tuple[str, ...]
    rows: tuple[TableRow, ...]
    num_fixed: int
    """Number of leading columns that identify a row."""


def build_summary_table(summary: Summary, language: Language) -> ResultTable:
    """Build the table over seeds: one row per task and setting, including baselines, with averages at the end."""
    rows: list[tuple[Cells, SummaryRow | Average]] = [(_show_row(row, language), row) for row in summary.rows]
    rows += [(_show_average(average, language), average) for average in summary.averages]
    return _build_table((*_FIRST, *_OWN_METRIC, *_OVER_SEEDS, *_LAST), summary, rows, language)


def build_run_table(summary: Summary, language: Language) -> ResultTable:
    """Build the table of single runs; MNLI's run has two rows."""
    rows: list[tuple[Cells, SummaryRow | Average]] = []
    for row in summary.rows:
        for outcome in row.outcomes:
            single = row.keep_seed(outcome)
            own = {"seed": Cell(outcome.run.seed, "id"), "run": Cell(outcome.run.name), "note": Cell(outcome.note)}
            rows.append((own | _show_row(single, language), single))
    table = _build_table(("seed", *_FIRST, *_OWN_METRIC, *_LAST, "run", "note"), summary, rows, language)
    return replace(table, num_fixed=table.num_fixed + 1)


def show_status(row: SummaryRow, language: Language) -> str:
    """Format the status of a row's runs: `success`, or how many succeeded, and the status of the others."""
    others = [each for each in row.outcomes if each.status != "success"]
    if len(row.outcomes) == 1 or not others:
        return translate(row.outcomes[0].status if row.outcomes else row.note, language)
    parts = [
        phrase("seed_status", language, seed=each.run.seed, status=translate(each.status, language)) for each in others
    ]
    return "; ".join([f"{row.num_done}/{len(row.outcomes)}", *parts])


def show_absence(row: SummaryRow, language: Language) -> str:
    """Return in one word why a row has no value: the status of its runs, or `missing`."""
    statuses = {str(each.status) for each in row.outcomes}
    if len(statuses) == 1 and "success" not in statuses:
        return translate(statuses.pop(), language)
    return translate("missing", language)


def build_comparison_table(summary: Summary, comparisons: Sequence[Comparison], language: Language) -> ResultTable:
    """Build the table of paired differences."""
    keys = (
        "task", "method", "compared_with", "metric", "common_seeds", "num_seeds", "difference", "interval_low",
        "interval_high", "finding",
    )  # fmt: skip
    rows = []
    for each in comparisons:
        form: Form = "percent" if each.metric and is_score(each.metric) else "fine"
        factor = 100 if form == "percent" else 1
        names = [summary.name_setting(setting) for setting in (each.setting, each.reference)]
        texts = [each.task, *names, each.metric, ", ".join(map(str, each.seeds))]
        numbers = [each.difference.mean if each.difference else None, *(each.interval or (None, None))]
        cells = [*map(Cell, texts), Cell(len(each.seeds), "count")]
        cells += [Cell(value if value is None else value * factor, form) for value in numbers]
        rows.append(TableRow((*cells, Cell(translate(each.finding, language))), "runs", each.task, is_complete=True))
    return ResultTable(keys, tuple(translate(key, language) for key in keys), tuple(rows), num_fixed=2)


def _build_table(
    keys: Sequence[str], summary: Summary, rows: Sequence[tuple[Cells, SummaryRow | Average]], language: Language
) -> ResultTable:
    """Put the columns that identify a row first: the task, and others whose values differ."""
    grid = {f"grid {key}": short for key, short in shorten_keys(summary.grid_keys).items()}
    several = len({(each.method, each.is_baseline) for each in summary.settings}) > 1
    fixed = ("task", *(["method"] if several else []), *grid)
    kept = dict.fromkeys(key for cells, _ in rows for key in cells if key.startswith(RETENTION))
    keys, own = (*fixed, *keys, *kept), {**grid, **{key: key for key in kept}}
    built = []
    for cells, source in rows:
        cells |= {"method": Cell(source.setting.method)}
        cells |= {f"grid {key}": Cell(_plain(value)) for key, value in source.setting.grid.items()}
        placed = tuple(cells.get(key, Cell(None)) for key in keys)
        if isinstance(source, Average):
            built.append(TableRow(placed, "average", "", not source.missing))
        else:
            kind: RowKind = "baseline" if source.setting.is_baseline else "runs"
            built.append(TableRow(placed, kind, source.task, source.num_done == len(source.outcomes)))
    return ResultTable(keys, tuple(own.get(key) or translate(key, language) for key in keys), tuple(built), len(fixed))


def _show_row(row: SummaryRow, language: Language) -> Cells:
    cells = {"task": Cell(row.task)} | _show_figures(row, _FIGURES, language) | _show_own_metric(row)
    cells |= _show_retention(row)
    if row.score is not None:
        (low, high), over = find_interval(row)
        form = cells["mean"].form
        cells |= {"interval_low": Cell(low, form), "interval_high": Cell(high, form)}
        cells["interval_over"] = Cell(translate(over, language) if over else None)
    if row.note or (row.outcomes and not row.num_done):
        absent = Cell(show_absence(row, language))
        cells |= {"best_accuracy": absent, "task_metric_best": absent}
    return cells | {"status": Cell(show_status(row, language))}


def _show_retention(row: SummaryRow) -> Cells:
    """Show the retention of the runs: means over the seeds, or of a single run with the interval over its rows."""
    records = [each.record for each in row.outcomes if each.status == "success" and each.record is not None]
    found: dict[str, list[Cell]] = {}
    for label, cell in (each for record in records for each in list_retention(record)):
        found.setdefault(label, []).append(cell)
    return {
        label: Cell(_neat(sum(each.value for each in cells) / len(cells), cells[0].form), cells[0].form)
        for label, cells in found.items()
        if len(cells) == len(records) and (len(records) == 1 or not label.endswith(("low", "high")))
    }


def _show_average(average: Average, language: Language) -> Cells:
    """Show what can be averaged over tasks, and the number of runs."""
    done, planned = average.num_runs
    remarks = [] if average.setting.is_baseline else [phrase("runs_of", language, done=done, planned=planned)]
    cells = {"task": Cell(phrase("average_of", language, tasks=len(average.tasks)))}
    cells |= _show_figures(average, _AVERAGED, language) | _show_own_metric(average)
    if average.missing:
        absent = Cell(translate("missing", language))
        remarks.append(phrase("without", language, tasks=", ".join(average.missing)))
        cells |= {"best_accuracy": absent, "task_metric_best": absent}
    return cells | {"status": Cell("; ".join(remarks))}


def _show_figures(source: SummaryRow | Average, keys: Iterable[str], language: Language) -> Cells:
    cells = {}
    for key in keys:
        figure, form = _FIGURES[key]
        if (mean := source.mean(figure)) is not None:
            value = mean * 100 if form == "percent" else mean
            cells[key] = Cell(_neat(value, form), form, mark_kind(source, figure, language))
    return cells


def mark_kind(source: SummaryRow | Average, figure: str, language: Language) -> str:
    """Return the mark of a figure of another kind; an average of accuracies is marked for what is mixed in."""
    kinds = source.find_kinds(figure)
    if "pearson" in kinds:
        return PEARSON_MARK
    return f" {translate('ram', language)}" if "ram" in kinds else ""


def _show_own_metric(source: SummaryRow | Average) -> Cells:
    """Show the own metric: best and last, and the deviation over seeds."""
    cells, score, last = {"task_metric": Cell(", ".join(source.metrics))}, source.score, source.mean("last")
    if score is None:
        return cells
    form: Form = "percent" if source.factor == 100 else "fine"
    return cells | {
        "task_metric_best": Cell(score.mean, form),
        "task_metric_last": Cell(None if last is None else last * source.factor, form),
        "mean": Cell(score.mean, form),
        "deviation": Cell(score.deviation, form),
        "num_seeds": Cell(None if source.setting.is_baseline else score.n or None, "count"),
    }


def find_interval(row: SummaryRow) -> tuple[tuple[float | None, float | None], str]:
    """Return the 95 % interval: over seeds if there are several, else over the run's evaluation rows."""
    score, low, high = row.score, row.mean("interval_low"), row.mean("interval_high")
    if score is not None and (over_seeds := score.interval()) is not None:
        return over_seeds, "over_seeds"
    if low is None or high is None:
        return (None, None), ""
    return (low * row.factor, high * row.factor), "over_rows"


def _neat(value: float, form: Form) -> float:
    """Round whole counts to integers, and epochs to few digits."""
    if form == "count" and value.is_integer():
        return int(value)
    return float(f"{value:.4g}") if form == "text" else value


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)

"""The terminal output at a suite's end: a short table, and the figures over all tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

from utils.benchmark.aggregate import compare_settings
from utils.benchmark.collapse import find_collapsed
from utils.benchmark.outcomes import RunOutcome, SuiteFacts
from utils.benchmark.statistics import Summary, SummaryRow
from utils.benchmark.tables import build_comparison_table
from utils.benchmark.text_reports import show_cell, show_comparisons, show_figure, show_score
from utils.results.columns import Cell
from utils.results.labels import Language, translate
from utils.results.sentences import phrase

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_HEAD_WIDTH = 12
_STYLES = {"success": "green", "failed": "red", "timed out": "red", "interrupted": "yellow", "missing": "yellow"}


def render_summary(suite: SuiteFacts, summary: Summary, outcomes: Sequence[RunOutcome]) -> RenderableType:
    """Build the output at a suite's end: the table, paired differences, progress and costs."""
    from rich.console import Group

    differences = _render_differences(summary, suite.language)
    return Group(_render_rows(suite, summary), *differences, _render_totals(suite, summary, outcomes))


def list_totals(suite: SuiteFacts, summary: Summary, outcomes: Sequence[RunOutcome]) -> list[tuple[str, str]]:
    """List the figures over all tasks with their descriptions, without those that were not measured.

    Means are over existing results, each task counted once, MNLI by its matched set; suites that compare settings have
    none.
    """
    language = suite.language
    rows = [row for row in summary.rows if row.outcomes and not row.suffix]
    done_tasks = {row.task for row in rows} - {row.task for row in rows if row.num_done < len(row.outcomes)}
    records = [each.record for each in outcomes if each.status == "success"]
    num_partial = sum(record is not None and bool(record.extra.get("partial")) for record in records)
    partial = phrase("runs_of", language, done=num_partial, planned=len(outcomes))
    return [
        (translate("tasks_done", language), f"{len(done_tasks)} / {len({row.task for row in rows})}"),
        (translate("runs_done", language), f"{len(records)} / {len(outcomes)}"),
        *([(translate("partial_runs", language), partial)] if num_partial else ()),
        *(_list_means(rows, language) if len({summary.name_setting(row.setting) for row in rows}) == 1 else ()),
        *_list_memory(rows, language),
    ]


def _render_rows(suite: SuiteFacts, summary: Summary) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    language = suite.language
    heads = ("task", "method", "scores", "trainable_percent", "peak_memory_gb", "status")
    table = Table(title=Text(suite.name), title_justify="left", box=box.SIMPLE)
    for key in heads:
        is_number = key in ("scores", "trainable_percent", "peak_memory_gb")
        justify: Literal["left", "right"] = "right" if is_number else "left"
        head = "\n".join(wrap(translate(key, language), _HEAD_WIDTH))
        table.add_column(Text(head), justify=justify, overflow="fold", no_wrap=is_number)
    above = ""
    for row in summary.rows:
        cells = [
            "" if row.task == above else row.task,
            summary.name_setting(row.setting),
            show_score(row, language),
            show_figure(row, "trainable_percent", "share", language),
            show_figure(row, "memory", "decimal", language),
        ]
        statuses = {each.status for each in row.outcomes} - {"success"}
        style = _STYLES.get(min(statuses) if statuses else "success", "") if row.outcomes else "dim"
        style = "yellow" if not statuses and find_collapsed(row) else style
        table.add_row(*map(Text, cells), Text(_show_status(row, language), style=style))
        above = row.task
    return table


def _render_differences(summary: Summary, language: Language) -> Iterator[Table]:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    comparisons = compare_settings(summary)
    if not any(each.interval for each in comparisons):
        return
    heads, rows = show_comparisons(build_comparison_table(summary, comparisons, language), language)
    kept = [index for index in range(len(heads)) if index not in (3, 4)]  # metric and seeds are in results.md
    table = Table(box=box.SIMPLE)
    for index in kept:
        table.add_column(Text(heads[index]), overflow="fold", justify="right" if index in (5, 6) else "left")
    for row in rows:
        table.add_row(*(Text(row[index]) for index in kept))
    yield table


def _render_totals(suite: SuiteFacts, summary: Summary, outcomes: Sequence[RunOutcome]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    metrics = "; ".join(f"{task}: {summary.name_metrics(task) or '?'}" for task in summary.tasks)
    for label, value in [(translate("task_metric", suite.language), metrics), *list_totals(suite, summary, outcomes)]:
        table.add_row(Text(label), Text(value))
    return table


def _show_status(row: SummaryRow, language: Language) -> str:
    """Format how many runs have a result, the status of the others, and how many have collapsed."""
    others = dict.fromkeys(each.status for each in row.outcomes if each.status != "success")
    if len(row.outcomes) < 2:
        shown = translate(row.outcomes[0].status if row.outcomes else row.note, language)
    else:
        words = ", ".join(translate(status, language) for status in others)
        shown = f"{row.num_done}/{len(row.outcomes)} {words}".strip()
    collapsed = len(find_collapsed(row))
    return f"{shown}\n{phrase('num_collapsed', language, num=collapsed)}" if collapsed else shown


def _list_means(rows: Sequence[SummaryRow], language: Language) -> Iterator[tuple[str, str]]:
    """Yield the mean accuracy and trainable share over rows, with the number of runs and their kinds."""
    for figure, key in (("accuracy", "mean_accuracy"), ("trainable_percent", "mean_share")):
        found = {row: stat for row in rows if (stat := row.measure(figure))}
        if not found:
            continue
        mean = fmean(stat.mean for stat in found.values())
        shown = f"{mean * 100:.2f}" if figure == "accuracy" else show_cell(Cell(mean, "share"))
        pearson = dict.fromkeys(row.task for row in found if row.find_kinds(figure) == {"pearson"})
        mixed = f"; {phrase('pearson_in', language, tasks=', '.join(pearson))}" if pearson else ""
        yield translate(key, language), f"{shown} ({_count_runs([s.n for s in found.values()], rows, language)}){mixed}"


def _list_memory(rows: Sequence[SummaryRow], language: Language) -> Iterator[tuple[str, str]]:
    """Yield mean and largest peak memory of the single runs; GPU and RAM are not mixed."""
    import pandas

    planned = sum(len(row.outcomes) for row in rows)
    runs = pandas.concat([row.runs for row in rows]).dropna(subset="memory")
    for kind, values in runs.groupby("memory_is")["memory"]:
        mark = f" {translate(kind, language)}"
        counted = phrase("runs_of", language, done=len(values), planned=planned)
        yield translate("mean_memory", language), f"{values.mean():.2f}{mark} ({counted})"
        yield translate("largest_memory", language), f"{values.max():.2f}{mark}"


def _count_runs(counts: Sequence[int], rows: Sequence[SummaryRow], language: Language) -> str:
    planned = sum(len(row.outcomes) for row in rows)
    runs = phrase("runs_of", language, done=sum(counts), planned=planned)
    return phrase("mean_of", language, rows=len(counts), planned=len(rows), runs=runs)

"""The page of a suite, report.html: its scores, charts, differences, runs, notes, settings and environment."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

from utils.benchmark.charts import Point, list_points
from utils.benchmark.outcomes import RunOutcome, SuiteFacts, read_figures
from utils.benchmark.statistics import Summary
from utils.benchmark.summary import list_totals
from utils.benchmark.tables import build_comparison_table, find_interval, show_absence
from utils.benchmark.text_reports import build_scores, name_some, show_comparisons
from utils.benchmark.workbook import WorkbookParts, tabulate_configuration
from utils.results.charts import Bar, BarChart, Chart, Series, spans_powers
from utils.results.curves import tabulate
from utils.results.labels import Language, is_score, scale, translate
from utils.results.page import Block, Facts, Figures, Page, PartOfPage, Sentences, Table, TableCell, Tone
from utils.results.provenance import show_hardware, show_time
from utils.results.sentences import phrase
from utils.results.workbook import flatten_values
from utils.runs.report import REPORT, read_logs

_TONES: dict[str, Tone] = {"success": "good", "failed": "bad", "timed out": "bad"}
_MOST_CURVES = 500  # runs whose logs are read
_MOST_ROWS = 60  # rows of a table that is shown unfolded
_COSTS = (("score_by_share", "trainable_percent"), ("score_by_memory", "peak_memory_gb"))
"""Titles of the charts of score against a cost, and of their axes, in the order of a point's costs."""


def build_suite_page(folder: Path, suite: SuiteFacts, parts: WorkbookParts, every: Sequence[RunOutcome]) -> Page:
    """Build the page of a suite; `every` has all its runs, including those of searches."""
    language, summary = suite.language, parts.summary
    outcomes = [each for each in every if not each.run.is_search]
    missing = [each.run.name for each in outcomes if each.status != "success"]
    status: tuple[str, Tone] = (f"{len(outcomes) - len(missing)} / {len(outcomes)}", "other" if missing else "good")
    first: list[Block] = [Facts(tuple(map(_split, list_totals(suite, summary, outcomes))))]
    if missing:
        runs = name_some(missing, language)
        sentence = phrase("unfinished", language, num=len(missing), planned=len(outcomes), runs=runs)
        first.append(Sentences((sentence,), "other"))
    charts: tuple[Chart | BarChart, ...] = (
        *_chart_scores(summary, language),
        *_chart_costs(summary, language),
        *_chart_losses(outcomes, language),
    )
    too_many = phrase("no_losses", language, most=_MOST_CURVES)
    left_out = [Sentences((too_many,))] if len(outcomes) > _MOST_CURVES else []
    contents: dict[str, Sequence[Block]] = {
        "": first,
        "scores_of_sets": [_show_scores(summary, language)],
        "charts": [Figures(charts), *left_out],
        "differences": _show_differences(parts, language),
        "runs": [_show_runs(folder, every, language)],
        "notes": [Sentences(tuple(parts.notes))],
        "configuration": [_show_configuration(summary, language)],
        "environment": list(_show_environment(parts, language)),
    }
    named = [PartOfPage(translate(key, language) if key else "", tuple(blocks)) for key, blocks in contents.items()]
    subtitle = f"{suite.source} · {show_time(parts.suite['written'])}"
    return Page(suite.name, status, subtitle, named, language)


def _split(total: tuple[str, str]) -> tuple[str, str, str]:
    """Split a total into the figure and its description."""
    label, value = total
    figure, _, note = value.partition(" (")
    return label, figure, note.replace(")", "", 1)


def _show_scores(summary: Summary, language: Language) -> Table:
    heads, rows = build_scores(summary, language, has_metrics=True)
    numbers = frozenset(range(1, len(heads)))
    return Table(translate("scores_of_sets", language), tuple(heads), tuple(map(tuple, rows)), numbers)


def _chart_scores(summary: Summary, language: Language) -> Iterator[BarChart]:
    """Yield one chart per task: each setting's score with its interval."""
    for task in summary.tasks:
        bars = []
        for index, setting in enumerate(summary.settings):
            if (row := summary.find_row(task, setting)) is None:
                continue
            name, (low, high) = summary.name_setting(setting), find_interval(row)[0]
            interval = None if low is None or high is None else (low, high)
            value = row.score.mean if row.score else None
            note = "" if row.score else translate(row.note, language) or show_absence(row, language)
            bars.append(Bar(name, value, interval, note, index))
        if any(bar.value is not None for bar in bars):
            metric = summary.name_metrics(task)
            is_x100 = bool(metric) and is_score(metric.partition(",")[0])
            yield BarChart(
                task, f"{metric}{' x100' if is_x100 else ''}, {translate('interval', language)}", tuple(bars)
            )


def _chart_costs(summary: Summary, language: Language) -> Iterator[Chart]:
    """Yield charts of score against cost; settings of one method are one series."""
    groups = [list(each) for _, each in groupby(list_points(summary), key=lambda point: point.group)]
    for cost, (title, axis) in enumerate(_COSTS):
        series = [
            Series(group[0].group, points, "dots", index)
            for index, group in enumerate(groups)
            if (points := tuple(_place(group, cost)))
        ]
        if sum(len(each.points) for each in series) > 1:
            is_log = spans_powers(x for each in series for x, _ in each.points)
            named = tuple(series)
            yield Chart(translate(title, language), translate(axis, language), named, is_log_x=is_log)


def _place(group: Sequence[Point], cost: int) -> Iterator[tuple[float, float]]:
    for point in group:
        x = point.costs[cost]
        if x is not None and point.score is not None:
            yield x, point.score


def _chart_losses(outcomes: Sequence[RunOutcome], language: Language) -> Iterator[Chart]:
    """Yield charts of the training loss per task, averaged over each method's runs."""
    done = [each for each in outcomes if each.status == "success"]
    if len(outcomes) > _MOST_CURVES:
        return
    by_task: dict[str, dict[str, dict[float, list[float]]]] = {}
    for each in done:
        values = by_task.setdefault(each.run.task, {}).setdefault(each.run.method, {})
        for step, loss in tabulate(read_logs(each.run.folder)).get("loss", ()):
            values.setdefault(step, []).append(loss)
    for task, methods in by_task.items():
        series = [
            Series(method, tuple((step, fmean(losses)) for step, losses in sorted(values.items())), color=index)
            for index, (method, values) in enumerate(methods.items())
            if values
        ]
        if series:
            title = f"{task}: {translate('training_loss', language)}"
            is_log = spans_powers(y for each in series for _, y in each.points)
            yield Chart(title, translate("step", language), tuple(series), is_log_y=is_log)


def _show_differences(parts: WorkbookParts, language: Language) -> list[Block]:
    if not parts.comparisons:
        return []
    heads, rows = show_comparisons(build_comparison_table(parts.summary, parts.comparisons, language), language)
    return [
        Table(
            translate("differences", language),
            tuple(heads),
            tuple(map(tuple, rows)),
            frozenset({5}),
            len(rows) > _MOST_ROWS,
        )
    ]


def _show_runs(folder: Path, every: Sequence[RunOutcome], language: Language) -> Table:
    rows: list[tuple[TableCell | str, ...]] = []
    for each in every:
        page = each.run.folder / REPORT
        link = os.path.relpath(page, folder) if page.is_file() else ""
        figures = read_figures(each)
        metric, best = str(figures["metric"] or ""), figures.get("best")
        shown = f"{scale(metric, best):.2f}" if isinstance(best, float) else ""
        seconds = figures.get("seconds")
        rows.append(
            (
                TableCell(each.run.name, link=link),
                TableCell(translate(each.status, language), tone=_TONES.get(each.status, "other")),
                f"{metric}{' x100' if metric and is_score(metric) else ''}",
                shown,
                f"{seconds:,.1f}" if isinstance(seconds, float) else "",
                each.note,
            )
        )
    heads = tuple(translate(key, language) for key in ("run", "status", "metric", "score", "train_runtime", "note"))
    return Table(translate("runs", language), heads, tuple(rows), frozenset({3, 4}), len(rows) > _MOST_ROWS)


def _show_configuration(summary: Summary, language: Language) -> Table:
    heads, rows = tabulate_configuration(summary, language)
    shown = tuple(tuple("" if value is None else str(value) for value in row) for row in rows)
    return Table(translate("configuration", language), tuple(heads), shown, is_folded=True)


def _show_environment(parts: WorkbookParts, language: Language) -> Iterator[Block]:
    suite = {key: value for key, value in parts.suite.items() if key != "versions"}
    machines = dict.fromkeys(map(show_hardware, parts.provenance.values()))
    rows = [(key, str(value)) for key, value in flatten_values(suite) if value]
    rows += [(translate("hardware", language), machine) for machine in machines if machine]
    heads = (translate("key", language), translate("value", language))
    yield Table(translate("environment", language), heads, tuple(rows))
    versions = tuple((name, str(value)) for name, value in parts.suite["versions"].items())
    yield Table(translate("software", language), heads, versions, is_folded=True)

"""The suite's tables as text: Markdown to read, CSV for analysis, LaTeX (booktabs) for papers."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from utils.benchmark.aggregate import Comparison
from utils.benchmark.outcomes import SuiteFacts
from utils.benchmark.statistics import Average, Stat, Summary, SummaryRow
from utils.benchmark.tables import (
    PEARSON_MARK,
    ResultTable,
    build_comparison_table,
    find_interval,
    mark_kind,
    show_absence,
)
from utils.results.columns import Cell, Form, count_places
from utils.results.labels import Language, translate
from utils.results.sentences import phrase
from utils.results.workbook import guard_formula

_BRIEF = (
    "task", "method", "best_accuracy", "trainable_percent", "peak_memory_gb", "total", "trainable", "loss", "f1",
    "matthews_correlation", "pearson", "spearmanr", "status",
)  # fmt: skip
"""Columns of the Markdown table; the others are in the CSV file and the workbook."""
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$&!])")
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": "{`}", "-": "{-}",
}  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_NUMERIC = re.compile(r"-$|missing|[-+]?\d")
_INTERVAL = re.compile(r"([-+]?[\d.]+) \.\. ([-+]?[\d.]+)")
_SIGNED = re.compile(r"[-+][\d.]+")
_NO_VALUE = "-"
_MOST_NAMED = 20
_PLUS_MINUS = " \u00b1 "


def render_csv(table: ResultTable, language: Language) -> str:
    """Write a table as CSV: bare numbers in full precision, and the meaning of their marks in a last column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([guard_formula(label) for label in (*table.labels, translate("note", language))])
    for row in table.rows:
        named = zip(table.labels, row.cells, strict=True)
        marks = [f"{label}: {_explain_mark(cell.mark)}" for label, cell in named if cell.mark]
        writer.writerow([*(bare(cell.value) for cell in row.cells), "; ".join(marks)])
    return text.getvalue()


def render_markdown(
    suite: SuiteFacts,
    summary: Summary,
    table: ResultTable,
    comparisons: Sequence[Comparison],
    notes: Sequence[str],
) -> str:
    """Write the report as Markdown: scores by setting and task, paired differences, the table, notes."""
    language = suite.language
    heads, rows = build_scores(summary, language, has_metrics=True)
    parts = [f"# {escape_markdown(suite.name)}", f"## {translate('scores', language)}", _markdown_table(heads, rows)]
    heads, rows = build_intervals(summary, language)
    if rows:
        parts.append(_markdown_table(heads, rows))
    if comparisons:
        parts.append(
            _markdown_table(*show_comparisons(build_comparison_table(summary, comparisons, language), language))
        )
    kept = [index for index, key in enumerate(table.keys) if key in _BRIEF or key.startswith("grid ")]
    shown = [[show_cell(row.cells[index]) for index in kept] for row in table.rows]
    parts += [f"## {translate('summary', language)}", _markdown_table([table.labels[index] for index in kept], shown)]
    parts.append("\n".join(f"- {escape_markdown(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def render_latex(suite: SuiteFacts, summary: Summary, comparisons: Sequence[Comparison]) -> str:
    r"""Write scores, their intervals and paired differences as LaTeX tables for \input, in English.

    Needs the package booktabs only.
    """
    heads, rows = build_scores(summary, "en", has_metrics=False)
    heads[:3], rows = _shorten_costs(heads[:3], rows)
    num_settings = sum(not setting.is_baseline for setting in summary.settings)
    scores = [_write_latex_lines(rows[:num_settings]), _write_latex_lines(rows[num_settings:])]
    tables = [("", _write_caption(summary), "l" + "r" * (len(heads) - 1), heads, [each for each in scores if each])]
    heads, rows = build_intervals(summary, "en")
    if rows:
        tables.append(("-intervals", phrase("intervals", "en"), "lllrrl", heads, [_write_latex_lines(rows)]))
    if comparisons:
        heads, rows = show_comparisons(build_comparison_table(summary, comparisons, "en"), "en")
        caption = phrase("comparisons", "en", reference="the method it is compared with")
        tables.append(("-differences", caption, "lllllrrl", heads, [_write_latex_lines(rows)]))
    written = [_write_latex_table(suite.name, *table) for table in tables]
    return "\n".join([r"% Needs \usepackage{booktabs}; written from the run records.", *written])


def _write_latex_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    return [" & ".join(map(_write_latex_cell, row)) + r" \\" for row in rows]


def _write_latex_table(
    name: str, part: str, caption: str, columns: str, heads: Sequence[str], groups: Sequence[Sequence[str]]
) -> str:
    """Write one table, with a rule before each group of lines."""
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{escape_latex(f'{name}. {caption}')}}}",
            rf"\label{{tab:{re.sub(r'[^A-Za-z0-9]+', '-', name)}{part}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(escape_latex, heads)) + r" \\",
            *(line for group in groups for line in (r"\midrule", *group)),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def show_cell(cell: Cell) -> str:
    """Format a cell with its mark; `-` without a value."""
    value = cell.value
    if value is None or value == "":
        return _NO_VALUE
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if cell.form == "text":
        return f"{value:g}{cell.mark}"
    if not math.isfinite(value):
        return str(value)
    separated = "," if cell.form in ("count", "decimal") else ""
    return f"{value:{separated}.{count_places(value, cell.form)}f}{cell.mark}"


def show_figure(source: SummaryRow | Average, figure: str, form: Form, language: Language) -> str:
    """Format the mean of a figure, marked if it is of another kind."""
    return show_cell(Cell(source.mean(figure), form, mark_kind(source, figure, language)))


def show_score(row: SummaryRow, language: Language) -> str:
    """Format a row's own metric: mean and sample standard deviation, and the number of seeds if some are missing."""
    if row.score is None:
        return _NO_VALUE if row.num_measured or row.setting.is_baseline else show_absence(row, language)
    tail = f" ({row.score.n}/{len(row.outcomes)})" if row.score.n < len(row.outcomes) else ""
    return _show_stat(row.score, ".2f" if row.factor == 100 else ".4f") + tail


def name_some(names: Sequence[str], language: Language) -> str:
    """List the first names, and the number of the others."""
    rest = len(names) - _MOST_NAMED
    more = [phrase("more", language, num=rest)] if rest > 0 else []
    return "; ".join([*names[:_MOST_NAMED], *more])


def escape_markdown(text: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return _MARKDOWN.sub(r"\\\1", _CONTROL.sub(" ", text))


def escape_latex(text: str) -> str:
    """Escape a text for LaTeX's text mode."""
    return "".join(_LATEX.get(char, char) for char in _CONTROL.sub(" ", text))


def build_scores(summary: Summary, language: Language, has_metrics: bool) -> tuple[list[str], list[list[str]]]:
    """Build the matrix of scores: settings by tasks, preceded by their costs and followed by the average."""
    metrics = [f" ({summary.name_metrics(task)})" if has_metrics else "" for task in summary.tasks]
    heads = [
        *(translate(key, language) for key in ("method", "trainable_percent", "peak_memory_gb")),
        *(f"{task}{metric}" for task, metric in zip(summary.tasks, metrics, strict=True)),
        *([translate("average", language)] if summary.averages else []),
    ]
    return heads, [_build_score_row(summary, total, language) for total in summary.totals]


def _build_score_row(summary: Summary, total: Average, language: Language) -> list[str]:
    rows = [summary.find_row(task, total.setting) for task in summary.tasks]
    cells = [
        summary.name_setting(total.setting),
        show_figure(total, "trainable_percent", "share", language),
        show_figure(total, "memory", "decimal", language),
        *(show_score(row, language) if row else _NO_VALUE for row in rows),
    ]
    if not summary.averages:
        return cells
    if total.score is None:
        return [*cells, translate("missing", language) if total.missing else _NO_VALUE]
    done, planned = total.num_runs
    return [*cells, _show_stat(total.score, ".2f") + (f" ({done}/{planned})" if done < planned else "")]


def build_intervals(summary: Summary, language: Language) -> tuple[list[str], list[list[str]]]:
    """Build the 95 % intervals of the scores, a row for each task and setting that has one."""
    rows = []
    for row in summary.rows:
        (low, high), over = find_interval(row)
        if row.score is None or low is None or high is None:
            continue
        places = ".2f" if row.factor == 100 else ".4f"
        interval = f"{low:{places}} .. {high:{places}}"
        metric = ", ".join(row.metrics)
        name = summary.name_setting(row.setting)
        rows.append([row.task, name, metric, f"{row.score.mean:{places}}", interval, translate(over, language)])
    keys = ("task", "method", "task_metric", "mean", "interval", "interval_over")
    return [translate(key, language) for key in keys], rows


def _show_stat(stat: Stat, places: str) -> str:
    return f"{stat.mean:{places}}" + ("" if stat.deviation is None else f"{_PLUS_MINUS}{stat.deviation:{places}}")


def show_comparisons(table: ResultTable, language: Language) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of paired differences, with signs, and each interval as one text."""
    rows = []
    for row in table.rows:
        *texts, _, difference, low, high, finding = row.cells
        rows.append([*map(show_cell, texts), _show_signed(difference), _show_signed(low, high), show_cell(finding)])
    *heads, _, difference_head, _, _, finding_head = table.labels
    return [*heads, difference_head, translate("interval", language), finding_head], rows


def _show_signed(*cells: Cell) -> str:
    known = [cell for cell in cells if cell.value is not None]
    return " .. ".join(f"{cell.value:+.{count_places(cell.value, cell.form)}f}" for cell in known) or _NO_VALUE


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, *rows]
    escaped = [[escape_markdown(cell) or " " for cell in line] for line in lines]
    rule = ["---:" if all(_NUMERIC.match(cell) for cell in cells) else "---" for cells in zip(*rows, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [escaped[0], rule, *escaped[1:]])


def _shorten_costs(heads: Sequence[str], rows: Sequence[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Shorten the costs' headers, and move the mark RAM from the cells to the header if all have it."""
    mark = f" {translate('ram', 'en')}"
    marked = [row[2].endswith(mark) for row in rows if row[2] != _NO_VALUE]
    if not all(marked) or not marked:
        return [heads[0], "trained (%)", "memory (GB)"], list(rows)
    return [heads[0], "trained (%)", "RAM (GB)"], [[*row[:2], row[2].removesuffix(mark), *row[3:]] for row in rows]


def _write_latex_cell(text: str) -> str:
    """Write `88.75 +- 0.61 (2/3)` with a small deviation; intervals and signed numbers as formulas."""
    if _SIGNED.fullmatch(text):
        return f"${text}$"
    if interval := _INTERVAL.fullmatch(text):
        return f"$[{interval[1]}, {interval[2]}]$"
    mean, plus_minus, rest = text.partition(_PLUS_MINUS)
    deviation, space, count = rest.partition(" ")
    return escape_latex(mean) + (f"$_{{\\pm {deviation}}}$" if plus_minus else "") + space + count


def _write_caption(summary: Summary) -> str:
    """Describe the numbers in English."""
    metrics = "; ".join(f"{task}: {summary.name_metrics(task) or 'none'}" for task in summary.tasks)
    parts = [f"Task metrics on the evaluation sets, scores x100 ({metrics})."]
    if any(len(row.runs) > 1 for row in summary.rows):
        parts.append("Mean and sample standard deviation over seeds; (k/n): only k of n runs have a result.")
    if summary.averages:
        parts.append("The average counts each task once and mixes their metrics; missing: a task has no result.")
    if any("ram" in row.find_kinds("memory") for row in summary.rows):
        parts.append("RAM: resident memory of the process, where no GPU was used.")
    return " ".join(parts)


def _explain_mark(mark: str) -> str:
    return "Pearson x100" if mark == PEARSON_MARK else mark.strip()


def bare(value: Any) -> Any:
    """Return a value for a CSV file: numbers in full precision, texts without formulas and line breaks."""
    if isinstance(value, float):
        return f"{value:.12g}"
    return guard_formula(_CONTROL.sub(" ", value)) if isinstance(value, str) else value

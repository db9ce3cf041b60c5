"""The suite as a styled workbook: summary, paired differences, charts, runs, configuration, provenance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from utils.benchmark.aggregate import Comparison
from utils.benchmark.charts import FONT, add_charts, fit_pages
from utils.benchmark.outcomes import RunOutcome
from utils.benchmark.statistics import Summary
from utils.benchmark.tables import ResultTable, TableRow, build_comparison_table, build_run_table
from utils.results.columns import Cell
from utils.results.labels import Language, translate
from utils.results.workbook import (
    display_width,
    fill_cell,
    fill_table,
    flatten_values,
    list_pairs,
    save_book,
    warn_of_losses,
)

if TYPE_CHECKING:
    from openpyxl.worksheet.worksheet import Worksheet

PER_RUN = frozenset({"seed", "task_name", "training.output_dir", "training.logging_dir", "training.run_name"})
"""Keys of a configuration that differ for each run and are not part of its setting."""
_PER_START = frozenset({"started", "ended", "command"})

Losses: TypeAlias = tuple[int, int]
"""Numbers of removed characters, and of cut texts."""

_HEAD, _LINE = "2F5C8F", "BFC7D1"
_FILLS = {"baseline": "F4F4F4", "average": "E8EEF6", "incomplete": "FDEBDD"}
_NARROWEST, _WIDEST = 9, 45
_PAGE_WIDTH = 190  # columns of a fixed-width font that one landscape page shows legibly
_NOTE_WIDTH = 110  # width of a note, in columns of a fixed-width font
_LINE_HEIGHT = 15.0
_MOST_LINES = 8


@dataclass(frozen=True)
class WorkbookParts:
    """Content of the workbook."""

    summary: Summary
    table: ResultTable
    """The table over seeds."""
    comparisons: Sequence[Comparison]
    notes: Sequence[str]
    suite: Mapping[str, Any]
    """Facts about the suite and this report."""
    provenance: Mapping[str, Mapping[str, Any]]
    """Provenance by run name, for runs that have it."""


def write_suite_workbook(path: Path, parts: WorkbookParts, language: Language) -> None:
    """Write the workbook atomically; no text is a formula, and missing runs have no values in charts.

    The sheets have the same names in both languages.
    """
    from openpyxl import Workbook

    book = Workbook()
    assert book.active is not None, "a new workbook has a sheet"
    book.remove(book.active)
    sheet = book.create_sheet("summary")
    lost = [_fill_table(sheet, parts.table)]
    _write_notes(sheet, parts.notes, len(parts.table.rows) + 3, parts.table.num_fixed + 1)
    if parts.comparisons:
        table = build_comparison_table(parts.summary, parts.comparisons, language)
        lost.append(_fill_sheet(book.create_sheet("paired differences"), table.labels, _list_cells(table), num_fixed=2))
    add_charts(book.create_sheet("charts"), parts.summary, language)
    lost.append(_fill_table(book.create_sheet("per run"), build_run_table(parts.summary, language)))
    heads, rows = tabulate_configuration(parts.summary, language)
    cells = [[Cell(value) for value in row] for row in rows]
    lost.append(_fill_sheet(book.create_sheet("configuration"), heads, cells))
    lost.append(_fill_provenance(book.create_sheet("provenance"), parts, language))
    warn_of_losses(path.name, lost)
    save_book(book, path)


def _list_cells(table: ResultTable) -> list[Sequence[Cell]]:
    return [row.cells for row in table.rows]


def _fill_table(sheet: Worksheet, table: ResultTable) -> Losses:
    lost = fill_table(sheet, table.labels, _list_cells(table))
    _style_sheet(sheet, table.num_fixed, sum(row.kind != "average" for row in table.rows))
    _style_rows(sheet, table.rows)
    return lost


def _fill_sheet(sheet: Worksheet, labels: Sequence[str], rows: Sequence[Sequence[Cell]], num_fixed: int = 1) -> Losses:
    lost = fill_table(sheet, labels, rows)
    _style_sheet(sheet, num_fixed, len(rows))
    return lost


def tabulate_configuration(summary: Summary, language: Language) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the settings' configurations: first the keys that distinguish them, then the others."""
    rows = [row for row in summary.rows if row.outcomes and not row.suffix]
    flat = [_join_configs(row.outcomes) for row in rows]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    same = {key for key in keys if all(values.get(key) == flat[0].get(key) for values in flat)}
    table = []
    for key in sorted(keys, key=same.__contains__):
        shared = flat[0].get(key) if key in same else translate("varies", language)
        own = [None if key in same else values.get(key) for values in flat]
        table.append([key, shared, *own])
    heads = [f"{row.task}: {summary.name_setting(row.setting)}" for row in rows]
    return [translate("key", language), translate("same_in_all", language), *heads], table


def _join_configs(outcomes: Sequence[RunOutcome]) -> dict[str, Any]:
    """Merge the configurations of a setting's seeds; a key in which they differ has all values."""
    flats = [dict(flatten_values(each.run.config)) for each in outcomes]
    joined: dict[str, Any] = {"seeds": ", ".join(str(each.run.seed) for each in outcomes)}
    for key in dict.fromkeys(key for flat in flats for key in flat if key not in PER_RUN):
        values = list({repr(flat.get(key)): flat.get(key) for flat in flats}.values())
        joined[key] = values[0] if len(values) == 1 else "; ".join(map(str, values))
    return joined


def _fill_provenance(sheet: Worksheet, parts: WorkbookParts, language: Language) -> Losses:
    """Fill in the provenance: the suite's, then its runs', each value with its number of runs."""
    rows = list_pairs(parts.suite)
    for key, value, count in _count_facts(parts.provenance):
        rows.append([Cell(f"run {key}"), Cell(value), Cell(count, "count")])
    return _fill_sheet(sheet, [translate(key, language) for key in ("key", "value", "num_runs")], rows)


def _count_facts(provenance: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Any, int]]:
    """Count the runs of each recorded value; of times, use the first start and the last end."""
    counts: dict[str, Counter[Any]] = {}
    for facts in provenance.values():
        for key, value in flatten_values({name: each for name, each in facts.items() if name not in _PER_START}):
            counts.setdefault(key, Counter())[value] += 1
    found = [(key, value, count) for key, counter in counts.items() for value, count in counter.most_common()]
    for key, choose in (("started", min), ("ended", max)):
        if times := [str(facts[key]) for facts in provenance.values() if key in facts]:
            found.insert(0, (f"{key} ({choose.__name__})", choose(times), len(times)))
    return found


def _style_sheet(sheet: Worksheet, num_fixed: int, num_rows: int) -> None:
    """Style a sheet of header and rows: coloured header, fitted widths, frozen panes, a filter, one page wide.

    The first `num_fixed` columns are frozen; the filter covers `num_rows` rows below the header.
    """
    from openpyxl.styles import Alignment, Font, PatternFill
    from openpyxl.utils import get_column_letter

    font, fill = Font(name=FONT, bold=True, color="FFFFFF"), PatternFill("solid", fgColor=_HEAD)
    centre = Alignment(horizontal="center", vertical="center", wrap_text=True)
    for cell in sheet[1]:
        cell.font, cell.fill, cell.alignment = font, fill, centre
    text = Alignment(horizontal="left", vertical="top", indent=1)
    wrapped = Alignment(horizontal="left", vertical="top", indent=1, wrap_text=True)
    number, total = Alignment(horizontal="right", vertical="top"), 0.0
    for index, column in enumerate(sheet.columns, start=1):
        head, cells = column[0], column[1:]
        widest = max((display_width(cell) for cell in cells), default=0)
        longest_word = max(map(len, str(head.value or "").split() or [""]))
        width = min(_WIDEST, max(_NARROWEST, widest + 3, longest_word + 5, display_width(head) // 2 + 2))
        sheet.column_dimensions[get_column_letter(index)].width = width
        total += width
        shown = [cell.value for cell in cells if cell.value is not None]
        is_number = 2 * sum(isinstance(value, int | float) and not isinstance(value, bool) for value in shown) > len(
            shown
        )
        alignment = number if is_number else wrapped if widest > _WIDEST else text
        for cell in cells:
            if cell.value is not None:
                cell.alignment = alignment
                if alignment is wrapped and display_width(cell) > _WIDEST - 3:
                    _fit_height(sheet, cell.row, math.ceil(display_width(cell) / (_WIDEST - 5)))
    sheet.row_dimensions[1].height = 3 * _LINE_HEIGHT
    sheet.freeze_panes = f"{get_column_letter(num_fixed + 1)}2"
    sheet.auto_filter.ref = f"A1:{get_column_letter(sheet.max_column)}{num_rows + 1}"
    sheet.print_title_rows = "1:1"
    sheet.print_title_cols = f"A:{get_column_letter(num_fixed)}"
    fit_pages(sheet, 1 if total < _PAGE_WIDTH else 2)


def _fit_height(sheet: Worksheet, row: int, num_lines: int) -> None:
    """Set a row's height to its wrapped text, at most a screenful."""
    height = min(_MOST_LINES, num_lines) * _LINE_HEIGHT
    sheet.row_dimensions[row].height = max(height, sheet.row_dimensions[row].height or 0.0)


def _style_rows(sheet: Worksheet, rows: Sequence[TableRow]) -> None:
    """Style rows by kind: a line where a task begins, baselines grey, averages bold, unfinished ones tinted."""
    from openpyxl.styles import Border, Font, PatternFill, Side

    fills = {name: PatternFill("solid", fgColor=color) for name, color in _FILLS.items()}
    bold, slanted = Font(name=FONT, bold=True), Font(name=FONT, italic=True, color="595959")
    line, strong = Border(top=Side("thin", color=_LINE)), Border(top=Side("medium", color=_HEAD))
    above = ""
    for number, row in enumerate(rows, start=2):
        key = f"{row.kind == 'average'} {row.task}"
        border = (strong if row.kind == "average" else line) if number > 2 and key != above else None
        fill = fills.get("incomplete" if row.kind == "runs" and not row.is_complete else row.kind)
        font = {"average": bold, "baseline": slanted}.get(row.kind)
        above = key
        for cell in sheet[number] if border or fill or font else ():
            if border:
                cell.border = border
            if fill:
                cell.fill = fill
            if font:
                cell.font = font


def _write_notes(sheet: Worksheet, notes: Sequence[str], row: int, column: int) -> None:
    """Write sentences from a row and a column on, each in one merged cell of fitting height."""
    from openpyxl.styles import Alignment, Font
    from openpyxl.utils import get_column_letter

    width, last = 0.0, column - 1
    while width < _NOTE_WIDTH:
        last += 1
        width += sheet.column_dimensions[get_column_letter(last)].width
    for number, note in enumerate(notes, start=row):
        cell = sheet.cell(number, column)
        fill_cell(cell, Cell(note))
        cell.font = Font(name=FONT, color="404040", size=10)
        cell.alignment = Alignment(wrap_text=True, vertical="top")
        lines = math.ceil(display_width(cell) / width)
        sheet.merge_cells(start_row=number, end_row=number, start_column=column, end_column=last)
        sheet.row_dimensions[number].height = _LINE_HEIGHT * lines

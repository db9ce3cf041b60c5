"""How the workbook's tables look: heads, widths, lines between tasks, colours of baselines and of missing runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.results.columns import Cell
from utils.results.excel import display_width, fill_cell

if TYPE_CHECKING:
    from openpyxl.worksheet.worksheet import Worksheet

    from utils.benchmark.tables import TableRow

FONT = "Calibri"

_HEAD, _LINE = "2F5C8F", "BFC7D1"
_FILLS = {"baseline": "F4F4F4", "average": "E8EEF6", "incomplete": "FDEBDD"}
_NARROWEST, _WIDEST = 9, 45
_PAGE_WIDTH = 190  # columns of a fixed font that one landscape page shows in a size that can be read
_NOTE_WIDTH = 110  # of a note's lines, in columns of a fixed font
_LINE_HEIGHT = 15.0
_MOST_LINES = 8


def style_sheet(sheet: Worksheet, num_fixed: int, num_rows: int) -> None:
    """Style a sheet that holds heads and rows: coloured heads, fitting widths, frozen panes, a filter, a page wide.

    The first `num_fixed` columns stay in sight; the filter covers `num_rows` rows below the heads.
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
                    _make_room(sheet, cell.row, math.ceil(display_width(cell) / (_WIDEST - 5)))
    sheet.row_dimensions[1].height = 3 * _LINE_HEIGHT
    sheet.freeze_panes = f"{get_column_letter(num_fixed + 1)}2"
    sheet.auto_filter.ref = f"A1:{get_column_letter(sheet.max_column)}{num_rows + 1}"
    sheet.print_title_rows = "1:1"
    sheet.print_title_cols = f"A:{get_column_letter(num_fixed)}"
    fit_pages(sheet, 1 if total < _PAGE_WIDTH else 2)


def fit_pages(sheet: Worksheet, num_pages: int) -> None:
    """Let a sheet be printed on A4, landscape, so many pages wide."""
    from openpyxl.worksheet.properties import PageSetupProperties

    sheet.page_setup.orientation, sheet.page_setup.paperSize = "landscape", 9  # A4
    sheet.page_setup.fitToWidth, sheet.page_setup.fitToHeight = num_pages, 0
    sheet.sheet_properties.pageSetUpPr = PageSetupProperties(fitToPage=True)
    sheet.page_margins.left = sheet.page_margins.right = 0.4
    sheet.page_margins.top = sheet.page_margins.bottom = 0.5


def _make_room(sheet: Worksheet, row: int, num_lines: int) -> None:
    """Make a row as high as its wrapped text needs it; a screenful at most."""
    height = min(_MOST_LINES, num_lines) * _LINE_HEIGHT
    sheet.row_dimensions[row].height = max(height, sheet.row_dimensions[row].height or 0.0)


def style_rows(sheet: Worksheet, rows: Sequence[TableRow]) -> None:
    """Mark what a row is: a line where a task begins, baselines grey, averages bold, unfinished ones tinted."""
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


def write_notes(sheet: Worksheet, notes: Sequence[str], row: int, column: int) -> None:
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

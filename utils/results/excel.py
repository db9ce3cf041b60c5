"""A run as a workbook: its results, its configuration and where they come from."""

from __future__ import annotations

import json
import logging
import math
import re
import unicodedata
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.secrets import mask_value
from utils.results.columns import Column, count_places, list_columns
from utils.results.json_file import replace_file
from utils.results.labels import translate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from openpyxl.cell.cell import Cell, MergedCell
    from openpyxl.worksheet._write_only import WriteOnlyWorksheet
    from openpyxl.worksheet.worksheet import Worksheet

    from utils.results.labels import Language
    from utils.results.record import RunRecord

_SEPARATED = ("count", "decimal")
_FORMULA_STARTS = tuple("=+-@\t\r")
_MAX_TEXT = 32_767  # a cell holds no more
_MAX_EXACT = 10**15  # a spreadsheet keeps 15 digits of a number
_WIDEST = 60
# What XML 1.0 cannot hold: control characters, lone surrogates and two non-characters.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

logger = logging.getLogger(__name__)


def write_workbook(
    path: str | Path,
    record: RunRecord,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    language: Language = "en",
) -> None:
    """Write results.xlsx whole or not at all: sheets results, configuration and provenance.

    Scores are shown x100. A text is never a formula, whatever it begins with; characters that a sheet
    cannot hold are taken out, and texts longer than a cell are cut, both with a warning.

    Args:
        path: The file.
        record: What was measured.
        config: The resolved configuration, nested; secrets in it are masked.
        provenance: As `collect_provenance` gives it.
        language: Of the column names.
    """
    from openpyxl import Workbook

    headings = [translate(key, language) for key in ("key", "value")]
    columns = list_columns(record, language)
    book = Workbook()
    assert book.active is not None, "a new workbook has a sheet"
    book.remove(book.active)
    lost = [
        _fill_sheet(book.create_sheet("results"), [column.label for column in columns], [columns]),
        _fill_sheet(book.create_sheet("configuration"), headings, _key_rows(config)),
        _fill_sheet(book.create_sheet("provenance"), headings, _key_rows(provenance)),
    ]
    warn_of_losses(Path(path).name, sum(removed for removed, _ in lost), sum(cut for _, cut in lost))
    with replace_file(Path(path)) as beside:
        book.save(beside)


def write_rows(sheet: WriteOnlyWorksheet, labels: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a large table row by row into a sheet of a write-only workbook; texts are never formulas.

    Characters that a sheet cannot hold are taken out, and texts longer than a cell are cut, both with a warning.
    """
    from openpyxl.cell import WriteOnlyCell

    num_removed = num_cut = 0
    for values in chain([labels], rows):
        cells = []
        for value in values:
            cell = WriteOnlyCell(sheet)
            removed, cut = fill_cell(cell, Column("", value, "text"))
            num_removed, num_cut = num_removed + removed, num_cut + cut
            cells.append(cell)
        sheet.append(cells)
    warn_of_losses(str(sheet.title), num_removed, num_cut)


def guard_formula(text: str) -> str:
    """Put an apostrophe before a text of a CSV file that a spreadsheet would take for a formula; numbers stay."""
    if not text.startswith(_FORMULA_STARTS):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text if text == text.strip() else f"'{text}"


def fill_cell(cell: Cell | MergedCell, entry: Column) -> tuple[int, int]:
    """Write one value as what it is; give the characters taken out and the texts cut."""
    value = entry.value
    if value is None or isinstance(value, bool):
        cell.value = value
        return 0, 0
    if isinstance(value, int | float) and math.isfinite(value) and (abs(value) < _MAX_EXACT):
        cell.value = value
        cell.number_format = _number_format(value, entry)
        return 0, 0
    text, num_removed = _ILLEGAL.subn("", str(value))
    cell.value = text[:_MAX_TEXT]
    cell.data_type = "s"  # a text that looks like a formula or an error stays a text
    cell.quotePrefix = text.startswith(_FORMULA_STARTS)
    return num_removed, int(len(text) > _MAX_TEXT)


def display_width(cell: Cell | MergedCell) -> int:
    """Count columns of a fixed font; an East Asian character takes two, the header's filter button three."""
    value = cell.value
    if value is None:
        return 0
    if isinstance(value, int | float) and not isinstance(value, bool) and cell.number_format != "General":
        return len(f"{value:,.2f}") + cell.number_format.count('"') * 3  # a mark stands between quotes
    longest = max(str(value).splitlines() or [""], key=len)
    width = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in longest)
    return width + (3 if cell.row == 1 else 0)


def warn_of_losses(name: str, num_removed: int, num_cut: int) -> None:
    """Warn of characters taken out of a sheet and of texts cut, where there are any."""
    if num_removed:
        logger.warning("%s: %d characters that a sheet cannot hold were taken out", name, num_removed)
    if num_cut:
        logger.warning("%s: %d texts were cut to the %d characters of a cell", name, num_cut, _MAX_TEXT)


def flatten_values(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and plain values, secrets masked; lists are written as JSON."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten_values(value, f"{before}{key}.")
        elif isinstance(value, Mapping | list | tuple):
            masked = value if isinstance(value, Mapping) else [mask_value(str(key), each) for each in value]
            yield f"{before}{key}", json.dumps(masked, ensure_ascii=False, default=str)
        else:
            yield f"{before}{key}", mask_value(f"{before}{key}", value)


def _key_rows(values: Mapping[str, Any]) -> list[list[Column]]:
    return [[Column("", key, "text"), Column("", value, "text")] for key, value in flatten_values(values)]


def _fill_sheet(sheet: Worksheet, labels: Sequence[str], rows: Sequence[Sequence[Column]]) -> tuple[int, int]:
    """Fill and dress a sheet; give the number of characters taken out and of texts cut."""
    from openpyxl.styles import Alignment, Font
    from openpyxl.utils import get_column_letter

    table = [[Column(label, label, "text") for label in labels], *rows]
    lost = [
        fill_cell(sheet.cell(row, column), entry)
        for row, entries in enumerate(table, start=1)
        for column, entry in enumerate(entries, start=1)
    ]
    for cell in sheet[1]:
        cell.font = Font(bold=True)
        cell.alignment = Alignment(vertical="top")
    sheet.freeze_panes = "A2"
    sheet.auto_filter.ref = sheet.dimensions
    for index, cells in enumerate(sheet.columns, start=1):
        widest = max(display_width(cell) for cell in cells)
        sheet.column_dimensions[get_column_letter(index)].width = min(_WIDEST, max(8, widest + 2))
    return sum(removed for removed, _ in lost), sum(cut for _, cut in lost)


def _number_format(value: float, entry: Column) -> str:
    if entry.form == "text":
        return "General"
    whole = "#,##0" if entry.form in _SEPARATED else "0"
    places = count_places(value, entry.form)
    shown = f"{whole}.{'0' * places}" if places else whole
    return f'{shown}"{entry.mark}"' if entry.mark else shown

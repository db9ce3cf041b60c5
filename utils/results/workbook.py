"""A run as a workbook: its results, configuration and provenance."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.replace_file import replace_file
from utils.core.secrets import mask_value
from utils.results.columns import Cell, count_places, list_columns
from utils.results.labels import count_columns, translate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from openpyxl import Workbook
    from openpyxl.cell.cell import Cell as SheetCell
    from openpyxl.cell.cell import MergedCell
    from openpyxl.worksheet._write_only import WriteOnlyWorksheet
    from openpyxl.worksheet.worksheet import Worksheet

    from utils.results.labels import Language
    from utils.results.record import RunRecord

_FORMULA_STARTS = tuple("=+-@\t\r")
_MAX_TEXT = 32_767  # maximum of a cell
_MAX_EXACT = 10**15  # a spreadsheet keeps 15 digits of a number
_WIDEST = 60
# Characters that XML 1.0 cannot hold: control characters, lone surrogates and two non-characters.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

logger = logging.getLogger(__name__)


def write_workbook(
    path: str | Path,
    record: RunRecord,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    language: Language = "en",
) -> None:
    """Write results.xlsx atomically, with the sheets results, configuration and provenance.

    Scores are shown x100. Texts are never formulas, whatever they begin with; characters that a sheet cannot hold are
    removed, and texts longer than a cell are cut, both with a warning. Secrets in the configuration are masked.
    """
    from openpyxl import Workbook

    headings = [translate(key, language) for key in ("key", "value")]
    labels, cells = zip(*list_columns(record, language), strict=True)
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[Cell]]]] = {
        "results": (labels, [cells]),
        "configuration": (headings, list_pairs(config)),
        "provenance": (headings, list_pairs(provenance)),
    }
    book = Workbook()
    assert book.active is not None, "a new workbook has a sheet"
    book.remove(book.active)
    losses = []
    for name, (heads, rows) in tables.items():
        sheet = book.create_sheet(name)
        losses.append(fill_table(sheet, heads, rows))
        _style_sheet(sheet)
    warn_of_losses(Path(path).name, losses)
    save_book(book, Path(path))


def save_book(book: Workbook, path: Path) -> None:
    """Save a workbook through memory: openpyxl leaves an archive open on a full disk, which fails again at exit."""
    packed = BytesIO()
    book.save(packed)
    with replace_file(path) as beside:
        beside.write_bytes(packed.getbuffer())


def write_rows(sheet: WriteOnlyWorksheet, labels: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a large table row by row into a sheet of a write-only workbook; texts are never formulas.

    Characters that a sheet cannot hold are removed, and texts longer than a cell are cut, both with a warning.
    """
    from openpyxl.cell import WriteOnlyCell

    num_removed = num_cut = 0
    for values in chain([labels], rows):
        cells = [WriteOnlyCell(sheet) for _ in values]
        for cell, value in zip(cells, values, strict=True):
            removed, cut = fill_cell(cell, Cell(value))
            num_removed, num_cut = num_removed + removed, num_cut + cut
        sheet.append(cells)
    warn_of_losses(str(sheet.title), [(num_removed, num_cut)])


def guard_formula(text: str) -> str:
    """Prefix a text for a CSV file with an apostrophe if a spreadsheet would read a formula; numbers are unchanged."""
    if not text.startswith(_FORMULA_STARTS):
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text if text == text.strip() else f"'{text}"


def fill_table(sheet: Worksheet, labels: Sequence[str], rows: Iterable[Sequence[Cell]]) -> tuple[int, int]:
    """Fill in header and rows; return the numbers of removed characters and cut texts."""
    losses = [
        fill_cell(sheet.cell(row, column), entry)
        for row, entries in enumerate(chain([[Cell(label) for label in labels]], rows), start=1)
        for column, entry in enumerate(entries, start=1)
        if entry.value not in (None, "")
    ]
    return sum(removed for removed, _ in losses), sum(cut for _, cut in losses)


def fill_cell(cell: SheetCell | MergedCell, entry: Cell) -> tuple[int, int]:
    """Write one value with its type; return the numbers of removed characters and cut texts."""
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


def display_width(cell: SheetCell | MergedCell) -> int:
    """Count columns of a fixed-width font; East Asian wide characters take two, the header's filter button three."""
    value = cell.value
    if value is None:
        return 0
    if isinstance(value, int | float) and not isinstance(value, bool) and cell.number_format != "General":
        return len(f"{value:,.2f}") + cell.number_format.count('"') * 3  # a mark is in quotes
    longest = max(str(value).splitlines() or [""], key=len)
    return count_columns(longest) + (3 if cell.row == 1 else 0)


def warn_of_losses(name: str, losses: Iterable[tuple[int, int]]) -> None:
    """Warn of characters removed from sheets and of cut texts, if any."""
    num_removed, num_cut = map(sum, zip(*losses, strict=True))
    if num_removed:
        logger.warning("%s: %d characters that a sheet cannot hold were removed", name, num_removed)
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


def list_pairs(values: Mapping[str, Any]) -> list[list[Cell]]:
    """List dotted keys with their values."""
    return [[Cell(key), Cell(value)] for key, value in flatten_values(values)]


def _style_sheet(sheet: Worksheet) -> None:
    from openpyxl.styles import Alignment, Font
    from openpyxl.utils import get_column_letter

    for cell in sheet[1]:
        cell.font = Font(bold=True)
        cell.alignment = Alignment(vertical="top")
    sheet.freeze_panes = "A2"
    sheet.auto_filter.ref = sheet.dimensions
    for index, cells in enumerate(sheet.columns, start=1):
        widest = max(display_width(cell) for cell in cells)
        sheet.column_dimensions[get_column_letter(index)].width = min(_WIDEST, max(8, widest + 2))


def _number_format(value: float, entry: Cell) -> str:
    if entry.form == "text":
        return "General"
    whole = "#,##0" if entry.form in ("count", "decimal") else "0"
    places = count_places(value, entry.form)
    shown = f"{whole}.{'0' * places}" if places else whole
    return f'{shown}"{entry.mark}"' if entry.mark else shown

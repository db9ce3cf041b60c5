"""Read rows one by one, and write answers to a file in the format of its suffix."""

from __future__ import annotations

import csv
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import IO, Any

from utils.core.errors import DataError, UserError
from utils.core.json_files import parse_json
from utils.core.replace_file import replace_file
from utils.core.texts import RowError
from utils.data.row_files import FileFormat, Row, RowReader, explain_unreadable, require_single_columns, spool
from utils.data.rows import drop_nulls
from utils.results.workbook import guard_formula

logger = logging.getLogger(__name__)

TABLE_KINDS = (".csv", ".tsv", ".parquet")
"""Formats whose rows all have the same columns."""


@dataclass(frozen=True)
class InputRow:
    """One row of the input."""

    number: int
    """Index from 0, including bad rows."""
    place: dict[str, int]
    """`line` from 1 in a text file, else `row` from 0."""
    row: Row = field(default_factory=dict)
    error: str | None = None
    """Why it cannot be read."""

    @property
    def size(self) -> int:
        """Number of characters of its texts."""
        return sum(len(value) for value in self.row.values() if isinstance(value, str))


@dataclass(frozen=True)
class Source:
    """The source of rows."""

    path: Path | None
    """None: standard input."""
    kind: str
    """Suffix with dot; empty for standard input and pipes: JSON if the first line is, else a text per line."""
    text_column: str
    """The column for lines of plain text."""
    quoting: bool | None = None
    """As in FileFormat."""

    @property
    def name(self) -> str:
        """Name of the source for messages."""
        return "standard input" if self.path is None else str(self.path)

    def place(self, row: InputRow) -> str:
        """Return a row's location for messages."""
        if "line" in row.place:
            return f"{self.name}:{row.place['line']}"
        return f"{self.name}, row {row.place['row']}"


def open_source(name: str | None, stated: str | None, text_column: str, quoting: bool | None = None) -> Source:
    """Describe the input.

    `name` is a checked file (None: standard input), `stated` its format as a suffix without dot (None: by the name),
    and `text_column` the column for lines of plain text.
    """
    path = None if name is None else Path(name).expanduser()
    kind = f".{stated}" if stated is not None else "" if path is None else path.suffix.lower()
    return Source(path, kind, text_column, quoting)


def read_rows(source: Source) -> Iterator[InputRow]:
    """Yield all rows, lazily; only a file that cannot be read at all raises an error."""
    for number, (place, row, error) in enumerate(_open(source)):
        yield InputRow(number, place, row, error)


_Read = tuple[dict[str, int], Row, str | None]


def _open(source: Source) -> Iterator[_Read]:
    if source.kind == ".parquet":
        yield from _read_parquet(source)
    elif source.path is None:
        yield from _read_stream(sys.stdin.buffer, source)
    else:
        with explain_unreadable(source.name), spool(source.path).open("rb") as stream:
            yield from _read_stream(stream, source)


def _read_stream(stream: IO[bytes], source: Source) -> Iterator[_Read]:
    form = FileFormat(source.kind, source.quoting, source.text_column)
    reader = RowReader(stream, form, source.name)
    for record in reader.records():
        try:
            yield {"line": record.line}, reader.read(record), None
        except RowError as error:
            yield {"line": record.line}, {}, str(error)


def _read_parquet(source: Source) -> Iterator[_Read]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    if source.path is None:
        raise DataError("standard input cannot be parquet; name the file by --input_file")
    try:
        file = ParquetFile(spool(source.path))
        require_single_columns(file.schema_arrow.names, source.name)
        batches = file.iter_batches(batch_size=256)
        rows = (row for batch in batches for row in batch.to_pylist())
        for index, row in enumerate(rows):
            yield {"row": index}, {column: drop_nulls(value) for column, value in row.items()}, None
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # such as texts that are not UTF-8
        raise DataError(f"{source.name}: cannot be read as parquet: {str(error).splitlines()[0]}") from error


Results = Callable[[], Iterator[bytes]]
"""Yields every answer as JSON, in order, each time it is called."""

_SHEET_ROWS, _SHEET_COLUMNS = 1_048_576, 16_384
_BLOCK = 1024


def write_results(results: Results, target: Path) -> None:
    """Write a file atomically, in the format of its suffix.

    A table has a column for every key of any row, and one for the probability of each class; values that a cell cannot
    hold (lists, objects) are written as JSON.
    """
    write = {
        ".jsonl": _write_lines, ".json": _write_list, ".csv": _write_separated, ".tsv": _write_separated,
        ".xlsx": _write_sheet, ".parquet": _write_parquet,
    }[target.suffix.lower()]  # fmt: skip
    try:
        with replace_file(target) as beside:
            write(results, beside)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror or error}") from None


def flatten(result: dict[str, Any]) -> dict[str, Any]:
    """Return an answer's cells by column."""
    flat: dict[str, Any] = {}
    for key, value in result.items():
        if key == "probabilities" and isinstance(value, dict):
            flat |= {f"probability_{name}": share for name, share in value.items()}
        elif isinstance(value, dict | list):
            flat[key] = json.dumps(value, ensure_ascii=False)
        else:
            flat[key] = value
    return flat


def _write_lines(results: Results, path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(line + b"\n" for line in results())


def _write_list(results: Results, path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"[")
        file.writelines((b",\n" if index else b"\n") + line for index, line in enumerate(results()))
        file.write(b"\n]\n")


def _write_separated(results: Results, path: Path) -> None:
    columns = _list_columns(results)
    num_guarded = 0
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.writer(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        table.writerow(map(guard_formula, columns))
        for row in _read(results):
            cells = [row.get(column) for column in columns]
            guarded = [guard_formula(cell) if isinstance(cell, str) else cell for cell in cells]
            num_guarded += sum(cell is not kept for cell, kept in zip(guarded, cells, strict=True))
            table.writerow(guarded)
    if num_guarded:
        logger.warning("%d cells that a spreadsheet would read as a formula now begin with an apostrophe", num_guarded)


def _write_sheet(results: Results, path: Path) -> None:
    from openpyxl import Workbook

    from utils.results.workbook import write_rows

    columns = _list_columns(results)
    num_rows = sum(1 for _ in results())
    if len(columns) > _SHEET_COLUMNS:
        raise UserError(
            f"a sheet holds {_SHEET_COLUMNS} columns, not {len(columns)}; name a .jsonl, .csv or .parquet file"
        )
    if num_rows >= _SHEET_ROWS:
        raise UserError(f"a sheet holds {_SHEET_ROWS - 1} rows, not {num_rows}; name a .jsonl, .csv or .parquet file")
    book = Workbook(write_only=True)
    rows = ([row.get(column) for column in columns] for row in _read(results))
    write_rows(book.create_sheet("answers"), columns, rows)
    packed = BytesIO()  # on a full disk openpyxl would leave its archive open
    book.save(packed)
    path.write_bytes(packed.getbuffer())


def _write_parquet(results: Results, path: Path) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    kinds = _find_kinds(results)
    types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    schema = pa.schema([(column, types[kind]) for column, kind in kinds.items()])
    rows = _read(results)
    with ParquetWriter(path, schema) as writer:
        while block := list(islice(rows, _BLOCK)):
            cells = [{column: _convert(row.get(column), kind) for column, kind in kinds.items()} for row in block]
            writer.write_table(pa.Table.from_pylist(cells, schema))


def _read(results: Results) -> Iterator[dict[str, Any]]:
    return (flatten(parse_json(line)) for line in results())


def _list_columns(results: Results) -> list[str]:
    columns: dict[str, None] = {}
    for row in _read(results):
        columns |= dict.fromkeys(row)
    return list(columns)


def _find_kinds(results: Results) -> dict[str, type]:
    """Find one type for all values of each column: the wider number type, or text."""
    kinds: dict[str, set[type]] = {}
    for row in _read(results):
        for column, value in row.items():
            found = kinds.setdefault(column, set())
            if value is not None:
                too_large = isinstance(value, int) and abs(value) >= 2**63
                found.add(str if too_large else type(value))
    return {column: _widest(found) for column, found in kinds.items()}


def _widest(kinds: set[type]) -> type:
    if len(kinds) == 1:
        return next(iter(kinds))
    return float if kinds == {int, float} else str


def _convert(value: Any, kind: type) -> Any:
    if value is None or type(value) is kind:
        return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
    return float(value) if kind is float else json.dumps(value)

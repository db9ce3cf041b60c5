"""Reads rows one by one from a file or standard input: a bad one is a row that says what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from utils.core.errors import DataError
from utils.core.texts import RowError
from utils.data.row_files import FileFormat, RowReader, explain_unreadable, spool

Row = dict[str, Any]

TABLE_KINDS = (".csv", ".tsv", ".parquet")
"""Kinds whose rows all have the same columns."""


@dataclass(frozen=True)
class InputRow:
    """One row of the input."""

    number: int
    """From 0, bad rows counted."""
    place: dict[str, int]
    """`line` from 1 in a file of text, else `row` from 0."""
    row: Row = field(default_factory=dict)
    error: str | None = None
    """Why it cannot be read."""

    @property
    def size(self) -> int:
        """Characters of its texts."""
        return sum(len(value) for value in self.row.values() if isinstance(value, str))


@dataclass(frozen=True)
class Source:
    """Where rows are read."""

    path: Path | None
    """None: standard input."""
    kind: str
    """Suffix with dot; empty for standard input and pipes: JSON where the first line is, else a text per line."""
    text_column: str
    """The column that a line of plain text is."""
    quoting: bool | None = None
    """As in FileFormat."""

    @property
    def name(self) -> str:
        """Name it in a message."""
        return "standard input" if self.path is None else str(self.path)

    def place(self, row: InputRow) -> str:
        """Name one row in a message."""
        if "line" in row.place:
            return f"{self.name}:{row.place['line']}"
        return f"{self.name}, row {row.place['row']}"


def open_source(name: str | None, stated: str | None, text_column: str, quoting: bool | None = None) -> Source:
    """Describe the input.

    Args:
        name: A checked file; None: standard input.
        stated: Its kind, as a suffix without dot; None: told by the name.
        text_column: The column that a line of plain text is.
        quoting: As in FileFormat.
    """
    path = None if name is None else Path(name).expanduser()
    kind = f".{stated}" if stated is not None else "" if path is None else path.suffix.lower()
    return Source(path, kind, text_column, quoting)


def read_rows(source: Source) -> Iterator[InputRow]:
    """Read all rows, lazily.

    Raises:
        DataError: The file as a whole cannot be read.
    """
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
        batches = file.iter_batches(batch_size=256)
        rows = (row for batch in batches for row in batch.to_pylist())
        for index, row in enumerate(rows):
            yield {"row": index}, row, None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source.name}: cannot be read as parquet: {str(error).splitlines()[0]}") from error

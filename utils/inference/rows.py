"""Reads rows one by one from a file or standard input: a bad one is a row that says what is wrong with it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

from utils.data.texts import RowError, describe_kind
from utils.errors import DataError

Row = dict[str, Any]

TABLE_KINDS = (".csv", ".tsv", ".parquet")
"""Kinds whose rows all have the same columns."""

_HELD_BACK = "\udc00"  # stands for NUL while a table is read; decoding itself gives \udc80 to \udcff only
_ODD = re.compile("[\udc00-\udcff]")


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
    """Suffix with dot; empty for standard input: jsonl where the first line is an object, else a text per line."""
    text_column: str
    """The column that a line of plain text is."""

    @property
    def name(self) -> str:
        """Name it in a message."""
        return "standard input" if self.path is None else str(self.path)

    def place(self, row: InputRow) -> str:
        """Name one row in a message."""
        if "line" in row.place:
            return f"{self.name}:{row.place['line']}"
        return f"{self.name}, row {row.place['row']}"


def open_source(name: str | None, stated: str | None, text_column: str) -> Source:
    """Describe the input.

    Args:
        name: A checked file; None: standard input.
        stated: Its kind, as a suffix without dot; None: told by the name.
        text_column: The column that a line of plain text is.
    """
    path = None if name is None else Path(name).expanduser()
    kind = f".{stated}" if stated is not None else "" if path is None else path.suffix.lower()
    return Source(path, kind, text_column)


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
        return
    if source.path is None:
        yield from _read_text(sys.stdin.buffer, source)
        return
    with source.path.open("rb") as stream:
        if source.kind == ".json" and _is_list(stream):
            yield from _read_list(source)
        else:
            yield from _read_text(stream, source)


def _read_text(stream: IO[bytes], source: Source) -> Iterator[_Read]:
    lines = _without_mark(stream)
    kind = source.kind
    if not kind:
        first = next(lines, None)
        lines = lines if first is None else chain([first], lines)
        kind = ".jsonl" if first is not None and first.lstrip().startswith(b"{") else ".txt"
    if kind in (".csv", ".tsv"):
        from utils.inference.separated import read_separated

        decoded = (line.decode("utf-8", "surrogateescape").replace("\0", _HELD_BACK) for line in lines)
        for number, row, error in read_separated(decoded, "\t" if kind == ".tsv" else ",", source.name):
            yield {"line": number}, *_check_characters(row, error)
        return
    for number, line in enumerate(lines, start=1):
        if kind == ".txt" or line.strip():
            yield {"line": number}, *_read_line(line, kind, source.text_column)


def _without_mark(stream: Iterable[bytes]) -> Iterator[bytes]:
    """Take the byte order mark off the first line."""
    for index, line in enumerate(stream):
        yield line.removeprefix(b"\xef\xbb\xbf") if index == 0 else line


def _read_line(line: bytes, kind: str, text_column: str) -> tuple[Row, str | None]:
    try:
        text = line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        return {}, f"not UTF-8 text (byte 0x{line[error.start]:02x} at {error.start + 1}); save the file as UTF-8"
    if "\0" in text:
        return {}, f"holds a NUL byte at {text.index(chr(0)) + 1}"
    return ({text_column: text}, None) if kind == ".txt" else _parse_object(text)


def _parse_object(text: str) -> tuple[Row, str | None]:
    try:
        row = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        return {}, f"not JSON ({error.msg} at column {error.colno})"
    except RecursionError:
        return {}, "not a row: lists within lists without end"
    except ValueError as error:  # NaN, or a number with thousands of digits
        return {}, f"not JSON ({error})"
    return _require_object(row)


def _require_object(row: Any) -> tuple[Row, str | None]:
    if isinstance(row, dict):
        return row, None
    return {}, f"{describe_kind(row)} where a row, one JSON object, was due"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _check_characters(row: Row, error: str | None) -> tuple[Row, str | None]:
    """Turn what could not be decoded in a table into an error."""
    for column, value in row.items():
        if isinstance(value, str) and _ODD.search(value):
            what = "a NUL byte" if _HELD_BACK in value else "bytes that are not UTF-8 text; save the file as UTF-8"
            return {}, error or f"column {column} holds {what}"
    return row, error


def _is_list(stream: IO[bytes]) -> bool:
    """Tell a file that is one JSON value from JSON lines."""
    head = stream.read(4096).decode("utf-8", errors="replace").lstrip("\ufeff").lstrip()
    stream.seek(0)
    return head.startswith("[") or head.splitlines()[:1] == ["{"]


def _read_list(source: Source) -> Iterator[_Read]:
    from utils.data.json_rows import JsonList

    assert source.path is not None, "standard input is read line by line"
    rows = JsonList(source.path)
    for index in range(len(rows)):
        try:
            yield {"row": index}, rows.read(index), None
        except RowError as error:
            yield {"row": index}, {}, str(error)


def _read_parquet(source: Source) -> Iterator[_Read]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    if source.path is None:
        raise DataError("standard input cannot be parquet; name the file by --input_file")
    try:
        file = ParquetFile(source.path)
        batches = file.iter_batches(batch_size=256)
        rows = (row for batch in batches for row in batch.to_pylist())
        for index, row in enumerate(rows):
            yield {"row": index}, row, None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source.name}: cannot be read as parquet: {str(error).splitlines()[0]}") from error

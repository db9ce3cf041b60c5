"""The one reader of csv, tsv, json, jsonl and txt files: reads each row separately and knows its line."""

from __future__ import annotations

import atexit
import csv
import json
import logging
import mmap
import os
import re
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from utils.core.errors import DataError
from utils.core.texts import FILE_KINDS, RowError, describe_kind, shorten, shorten_list
from utils.data.records import Record, detect_kind, join_quoted, mark_empty, number_lines, read_ahead, split_list

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
UNQUOTED_KINDS = tuple(kind for kind in FILE_KINDS if kind not in _SEPARATORS)
"""File kinds to which quoting does not apply."""
_QUOTED = re.compile(rb'(?:^|\t)"[^\t]*""[^\t]*"(?:\t|\r?\n|$)')

logger = logging.getLogger(__name__)

Row = dict[str, Any]
"""A row's values by column."""


@dataclass(frozen=True)
class FileFormat:
    """How the bytes of a file become rows."""

    kind: str = ""
    """Suffix with dot, other than parquet's; empty: detected from the first line, JSON or else a text per line."""
    quoting: bool | None = None
    """csv and tsv: whether quoted fields may contain separators and line breaks. None: yes in a csv; no in a tsv, where
    quotes are ordinary characters, as in GLUE's."""
    text_column: str = "text"
    """Column name for the lines of plain text."""
    headerless: tuple[str, ...] = ()
    """Columns of a table without header; its first line must have as many fields, none of them one of these names."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """New names of a table's columns, by their own."""


AS_NAMED = FileFormat()
"""Detected from the file's suffix."""


class RowReader:
    """Splits a stream, which is read once, into records, and parses them as rows."""

    def __init__(self, stream: Iterable[bytes], form: FileFormat, name: str) -> None:
        csv.field_size_limit(2**31 - 1)  # a document may exceed the library's 128 KiB
        self._name, self._text_column = name, form.text_column
        lines = number_lines(stream, name)
        # A .json file may be a list or lines of objects; a pipe can only be told by its content.
        ahead = read_ahead(lines) if form.kind in ("", ".json") else []
        self.kind = detect_kind(form.kind, ahead[-1].raw if ahead else b"")
        self._separator = _SEPARATORS.get(self.kind, "")
        self._is_quoted = self.kind == ".csv" if form.quoting is None else form.quoting
        self._records = self._split(chain(ahead, lines))
        self.columns: list[str] = []
        """Columns of a table."""
        if self._separator:
            self._read_header(form)

    def records(self) -> Iterator[Record]:
        """Return the records of all rows, once."""
        return self._records

    def read(self, record: Record) -> Row:
        """Parse a record as a row."""
        if record.problem is not None:
            raise RowError(record.problem)
        try:
            text = record.raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{record.raw[error.start]:02x} at {error.start + 1}"
            raise RowError(f"not UTF-8 text ({byte}); save the file as UTF-8") from error
        if "\0" in text:
            raise RowError(f"holds a NUL byte at {text.index(chr(0)) + 1}")
        if self._separator:
            return self._read_fields(text)
        return {self._text_column: text} if self.kind == ".txt" else _read_object(text)

    def _split(self, lines: Iterator[Record]) -> Iterator[Record]:
        if self._separator:
            return mark_empty(join_quoted(lines, self._separator) if self._is_quoted else self._count_quoted(lines))
        if self.kind == ".json":
            return split_list(lines, self._name)
        return lines if self.kind == ".txt" else (each for each in lines if each.raw.strip())

    def _count_quoted(self, lines: Iterator[Record]) -> Iterator[Record]:
        """Warn at the end if fields are quoted as in a quoted table."""
        num_quoted = 0
        for line in lines:
            num_quoted += b'""' in line.raw and _QUOTED.search(line.raw) is not None
            yield line
        if num_quoted:
            _warn_of_quotes(self._name, num_quoted)

    def _read_header(self, form: FileFormat) -> None:
        first = next((each for each in self._records if each.problem is None), None)
        if first is None:
            return
        where = f"{self._name}:{first.line}"
        try:
            text = first.raw.decode("utf-8").rstrip("\r\n")
            if "\r" in text.replace("\r\n", ""):
                raise DataError(f"{where}: its lines end with carriage returns only; save the file with line feeds")
            fields = self._split_fields(text)
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 text; save the file as UTF-8") from error
        except RowError as error:
            raise DataError(f"{where}: the header cannot be read: {error}") from error
        own = form.headerless
        if own and len(fields) == len(own) and not set(fields) & set(own):  # the first line is a row
            self.columns, self._records = list(own), chain([first], self._records)
            return
        if self.kind == ".csv" and len(fields) == 1 and set(text) & {";", "\t"}:
            raise DataError(
                f"{where}: the header has no comma: {shorten(text)!r}; save the file with commas between its fields, "
                "or as .tsv with tabs"
            )
        renamed = {old: new for old, new in form.renamed.items() if new not in fields}
        fields = [renamed.get(column, column) for column in fields]
        require_single_columns(fields, where)
        self.columns = fields

    def _read_fields(self, text: str) -> Row:
        fields = self._split_fields(text)
        if len(fields) != len(self.columns):
            hint = "; put texts with separators in quotes" if self._is_quoted else ""
            if not self._is_quoted and '"' in text:
                hint = "; quotes are ordinary characters here, unless dataset.quoting: true is set"
            raise RowError(f"{len(fields)} fields where the header has {len(self.columns)}{hint}")
        return dict(zip(self.columns, fields, strict=True))

    def _split_fields(self, text: str) -> list[str]:
        if not self._is_quoted or not ('"' in text or "\r" in text):
            return text.split(self._separator)
        try:
            return next(csv.reader([text], delimiter=self._separator, strict=True), [])
        except csv.Error as error:
            raise RowError(f"not a record of a table ({error})") from error


def require_single_columns(names: Iterable[str], where: str) -> None:
    """Raise a DataError if a table names a column twice: its rows could hold only one of the two."""
    if twice := sorted(column for column, count in Counter(names).items() if count > 1):
        raise DataError(f"{where}: the header names a column twice: {shorten_list(twice)}")


class FileTable:
    """The rows of a file, read on demand; the file must not change in the meantime."""

    def __init__(self, path: Path, form: FileFormat, name: str) -> None:
        self._name = name
        self._lines, self._starts, self._ends = array("q"), array("q"), array("q")
        self._problems: dict[int, str] = {}
        with explain_unreadable(name), path.open("rb") as file:
            self._reader = RowReader(file, form, name)
            for index, record in enumerate(self._reader.records()):
                self._lines.append(record.line)
                self._starts.append(record.start)
                self._ends.append(record.start + len(record.raw))
                if record.problem is not None:
                    self._problems[index] = record.problem
            if not self._lines:
                raise DataError(f"{name}: the file {'holds no rows' if path.stat().st_size else 'is empty'}")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.kind = self._reader.kind
        self.is_typed = self.kind not in _SEPARATORS
        """Whether values have types; otherwise all are strings."""

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, index: int) -> Row:
        """Read a row."""
        start, raw = self._starts[index], self._bytes[self._starts[index] : self._ends[index]]
        return self._reader.read(Record(self._lines[index], start, raw, self._problems.get(index)))

    def place(self, index: int) -> str:
        """Return a row's file and line."""
        return f"{self._name}:{self._lines[index]}"


@cache
def _warn_of_quotes(name: str, count: int) -> None:
    logger.warning("%s: %d lines hold a field in quotes with doubled quotes in it, as quoted tables do; the quotes are "
                   "taken as written, unless dataset.quoting: true says otherwise", name, count)  # fmt: skip


def _read_object(text: str) -> Row:
    try:
        row = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RowError(f"not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise RowError("not a row: lists within lists without end") from error
    except ValueError as error:  # NaN, a key given twice, or a number of thousands of digits
        raise RowError(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise RowError(f"{describe_kind(row)} where a row, one JSON object, was expected")
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_repeated(pairs: list[tuple[str, Any]]) -> Row:
    """Build an object; json would silently keep only the last value of a key that is given twice."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {shorten(next(key for key in keys if keys.count(key) > 1))!r} is given twice")
    return row


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated)
"""Created once: json.loads would create one for every row."""


@cache
def spool(path: Path) -> Path:
    """Copy a pipe or /dev/stdin to a temporary file; return other files unchanged."""
    if not is_stream(path):
        return path
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DataError(f"{path}: is a pipe, which only one of the processes could read; write the rows to a file")
    with explain_unreadable(str(path)), path.open("rb") as stream:
        kept = tempfile.NamedTemporaryFile(prefix="lora_ns_", suffix=path.suffix, delete=False)  # noqa: SIM115  it outlives this function
        atexit.register(Path(kept.name).unlink, missing_ok=True)
        with kept:
            shutil.copyfileobj(stream, kept)
    return Path(kept.name)


def is_stream(path: Path) -> bool:
    """Return whether a path is a pipe or device, which cannot be read twice."""
    return os.path.exists(path) and not (path.is_file() or path.is_dir())  # Path.exists raises for a long name


@contextmanager
def explain_unreadable(name: str) -> Iterator[None]:
    """Turn an OSError into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error


def is_local(path: str) -> bool:
    """Return whether a path is a folder or file, not a hub id such as `nyu-mll/glue`."""
    written_so = path.startswith(("./", "../", "/", "~")) or path.count("/") > 1
    return written_so or Path(path).suffix.lower() in FILE_KINDS or os.path.exists(os.path.expanduser(path))


def is_row_file(path: str) -> bool:
    """Return whether a path is a file of rows or a pipe, not a folder or a hub id."""
    return is_local(path) and os.path.exists(file := os.path.expanduser(path)) and not os.path.isdir(file)

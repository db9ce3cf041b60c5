"""Reads files of rows, each row by itself and with its line: the one reader of csv, tsv, json, jsonl and txt."""

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
from utils.core.texts import FILE_KINDS, RowError, describe_kind, shorten_list
from utils.data.records import Record, detect_kind, join_quoted, mark_empty, number_lines, read_ahead, split_list

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
UNQUOTED_KINDS = tuple(kind for kind in FILE_KINDS if kind not in _SEPARATORS)
"""Kinds for which quoting is no question."""
_QUOTED = re.compile(rb'(?:^|\t)"[^\t]*""[^\t]*"(?:\t|\r?\n|$)')

logger = logging.getLogger(__name__)

Row = dict[str, Any]
"""A row's values by column."""


@dataclass(frozen=True)
class FileFormat:
    """How the bytes of a file become rows."""

    kind: str = ""
    """Suffix with dot, not parquet's; empty: told by the first line, JSON or else a text per line."""
    quoting: bool | None = None
    """csv and tsv: a field in quotes may hold separators and line ends. None: it may in a csv; in a tsv, as GLUE's
    are, quotes are characters like others."""
    text_column: str = "text"
    """The column that a line of plain text is."""
    headerless: tuple[str, ...] = ()
    """Columns of a table whose first line is a row already: it has as many fields, and names none of these."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Columns of a table that get another name, by their own."""


AS_NAMED = FileFormat()
"""As the file's suffix says."""


class RowReader:
    """Splits a stream, which is read once, into records, and makes rows of them."""

    def __init__(self, stream: Iterable[bytes], form: FileFormat, name: str) -> None:
        csv.field_size_limit(2**31 - 1)  # a document may be longer than the library's 128 KiB
        self._name, self._text_column = name, form.text_column
        lines = number_lines(stream, name)
        # A .json file may be a list or lines of objects; of a pipe, nothing else tells.
        ahead = read_ahead(lines) if form.kind in ("", ".json") else []
        self.kind = detect_kind(form.kind, ahead[-1].raw if ahead else b"")
        self._separator = _SEPARATORS.get(self.kind, "")
        self._is_quoted = self.kind == ".csv" if form.quoting is None else form.quoting
        self._records = self._split(chain(ahead, lines))
        self.columns: list[str] = []
        """Of a table."""
        if self._separator:
            self._read_header(form)

    def records(self) -> Iterator[Record]:
        """Give the records of all rows, once."""
        return self._records

    def read(self, record: Record) -> Row:
        """Make a row of a record."""
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
            return mark_empty(join_quoted(lines, self._separator) if self._is_quoted else self._watch(lines))
        if self.kind == ".json":
            return split_list(lines, self._name)
        return lines if self.kind == ".txt" else (each for each in lines if each.raw.strip())

    def _watch(self, lines: Iterator[Record]) -> Iterator[Record]:
        """Say at the end when fields stand in quotes as those of a quoted table do."""
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
                raise DataError(f"{where}: its lines end in carriage returns alone; save the file with line feeds")
            fields = self._cut(text)
        except UnicodeDecodeError as error:
            raise DataError(f"{where}: not UTF-8 text; save the file as UTF-8") from error
        except RowError as error:
            raise DataError(f"{where}: the header cannot be read: {error}") from error
        own = form.headerless
        if own and len(fields) == len(own) and not set(fields) & set(own):  # the first line is a row
            self.columns, self._records = list(own), chain([first], self._records)
            return
        renamed = {old: new for old, new in form.renamed.items() if new not in fields}
        fields = [renamed.get(column, column) for column in fields]
        if twice := sorted(column for column, count in Counter(fields).items() if count > 1):
            raise DataError(f"{where}: the header names a column twice: {shorten_list(twice)}")
        self.columns = fields

    def _read_fields(self, text: str) -> Row:
        fields = self._cut(text)
        if len(fields) != len(self.columns):
            hint = "; put texts with separators in quotes" if self._is_quoted else ""
            if not self._is_quoted and '"' in text:
                hint = "; quotes are characters like others here, unless dataset.quoting: true says otherwise"
            raise RowError(f"{len(fields)} fields where the header has {len(self.columns)}{hint}")
        return dict(zip(self.columns, fields, strict=True))

    def _cut(self, text: str) -> list[str]:
        if not self._is_quoted or not ('"' in text or "\r" in text):
            return text.split(self._separator)
        try:
            return next(csv.reader([text], delimiter=self._separator, strict=True), [])
        except csv.Error as error:
            raise RowError(f"not a record of a table ({error})") from error


class FileTable:
    """The rows of a file, read when they are asked for; the file must not change meanwhile."""

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
        """Values have types; else all of them are texts."""

    def __len__(self) -> int:
        return len(self._lines)

    def read(self, index: int) -> Row:
        """Read a row."""
        start, raw = self._starts[index], self._bytes[self._starts[index] : self._ends[index]]
        return self._reader.read(Record(self._lines[index], start, raw, self._problems.get(index)))

    def place(self, index: int) -> str:
        """Name the line of a row."""
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
    except ValueError as error:  # NaN, or a number of thousands of digits
        raise RowError(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise RowError(f"{describe_kind(row)} where a row, one JSON object, was expected")
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
"""Made once: json.loads would make one for every row."""


@cache
def spool(path: Path) -> Path:
    """Copy what can be read only once (a pipe, /dev/stdin) to a temporary file; other files are themselves."""
    if not is_stream(path):
        return path
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DataError(f"{path}: is a pipe, which only one of the processes could read; write the rows to a file")
    with explain_unreadable(str(path)), path.open("rb") as stream:
        kept = tempfile.NamedTemporaryFile(prefix="lora_ns_", suffix=path.suffix, delete=False)  # noqa: SIM115
        atexit.register(Path(kept.name).unlink, missing_ok=True)
        with kept:
            shutil.copyfileobj(stream, kept)
    return Path(kept.name)


def is_stream(path: Path) -> bool:
    """Tell a pipe or a device from a file that can be read again."""
    return os.path.exists(path) and not (path.is_file() or path.is_dir())  # Path.exists raises for a long name


@contextmanager
def explain_unreadable(name: str) -> Iterator[None]:
    """Turn the system's refusal into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error


def is_local(path: str) -> bool:
    """Tell a folder or file from a hub id such as `nyu-mll/glue`."""
    written_so = path.startswith(("./", "../", "/", "~")) or path.count("/") > 1
    return written_so or Path(path).suffix.lower() in FILE_KINDS or os.path.exists(os.path.expanduser(path))


def is_row_file(path: str) -> bool:
    """Tell a file of rows, or a pipe of them, from a folder and a hub id."""
    return is_local(path) and os.path.exists(file := os.path.expanduser(path)) and not os.path.isdir(file)

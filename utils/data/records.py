"""Splits a stream of bytes into the records of its rows, each with its line; every byte belongs to a record."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from utils.core.errors import DataError
from utils.core.texts import describe_kind

_NO_SPACE = re.compile(r"[^ \t\r\n]")
_LIST = re.compile(rb"\[\s*(\{.*|$)", re.DOTALL)
_UTF8_MARK, _UTF16_MARKS = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")
"""First bytes of gzip, bzip2, xz, zstandard and zip."""


class Record(NamedTuple):
    """The bytes of one row."""

    line: int
    """Line where it starts, from 1."""
    start: int
    """Byte offset where it starts."""
    raw: bytes
    problem: str | None = None
    """Why it is not a row, if that is known without parsing it."""


def number_lines(stream: Iterable[bytes], name: str) -> Iterator[Record]:
    """Yield lines as records, without the byte order mark that some editors write."""
    start = 0
    for number, line in enumerate(stream, start=1):
        if number == 1 and line.startswith(_UTF16_MARKS):
            raise DataError(f"{name}: not UTF-8 text but UTF-16; save the file as UTF-8")
        if number == 1 and line.startswith(_COMPRESSED) and (b"\0" in line or not line.isascii()):
            raise DataError(f"{name}: a compressed file; unpack it first")
        raw = line.removeprefix(_UTF8_MARK) if number == 1 else line
        yield Record(number, start + len(line) - len(raw), raw)
        start += len(line)


def read_ahead(lines: Iterator[Record]) -> list[Record]:
    """Read up to the first non-empty line."""
    read: list[Record] = []
    for line in lines:
        read.append(line)
        if line.raw.strip():
            break
    return read


def detect_kind(stated: str, line: bytes) -> str:
    """Detect the kind of file by its first line, which may start a JSON list or be a line of JSON."""
    line = line.strip()
    if stated == ".json":
        return ".json" if line.startswith(b"[") or line == b"{" else ".jsonl"
    if stated:
        return stated
    return ".json" if _LIST.match(line) else ".jsonl" if line.startswith(b"{") else ".txt"


def mark_empty(records: Iterator[Record]) -> Iterator[Record]:
    """Mark empty lines of a table, which would shift the rows after them, unless they are at the end."""
    empty: list[Record] = []
    for record in records:
        if record.raw.strip(b"\r\n"):
            yield from (each._replace(problem="an empty line") for each in empty)
            empty.clear()
            yield record
        else:
            empty.append(record)


def join_quoted(lines: Iterator[Record], separator: str) -> Iterator[Record]:
    """Join the lines of records with quoted line breaks."""
    for line in lines:
        if b'"' in line.raw:
            yield from _take_record(line, lines, separator)
        else:
            yield line


def _take_record(first: Record, lines: Iterator[Record], separator: str) -> list[Record]:
    taken = [first]

    def feed() -> Iterator[str]:
        yield first.raw.decode("latin-1")  # decodes any bytes; quotes and separators are unchanged
        for line in lines:
            taken.append(line)
            yield line.raw.decode("latin-1")

    try:
        next(csv.reader(feed(), delimiter=separator, strict=True), None)
    except csv.Error as error:
        if len(taken) > 1:  # a stray quote must not swallow all following rows
            problem = f"in a text that begins with a quote in line {first.line} and does not end with one ({error})"
            return [each._replace(problem=problem) for each in taken]
    return [first._replace(raw=b"".join(each.raw for each in taken))]


def split_list(lines: Iterator[Record], name: str) -> Iterator[Record]:
    """Split one JSON list into items, which are parsed later, so that a malformed one is a single bad row."""
    first = next(lines, None)
    data = b"" if first is None else b"".join([first.raw, *(each.raw for each in lines)])
    text = data.decode("latin-1")  # one character per byte, so that positions are offsets; JSON's own syntax is ASCII
    try:
        spans = list(_find_items(text, name))
    except json.JSONDecodeError as error:
        raise DataError(f"{name}:{error.lineno}: not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise DataError(f"{name}: lists within lists without end") from error
    line, seen = 1, 0
    for start, end in spans:
        line, seen = line + data.count(b"\n", seen, start), start
        yield Record(line, (first.start if first else 0) + start, data[start:end])


def _find_items(text: str, name: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each item of a list."""
    decoder = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=len)  # numbers of any length
    at = _skip_space(text, 0)
    if not text.startswith("[", at):
        value, _ = decoder.raw_decode(text, at)
        raise DataError(f"{name}: holds {describe_kind(value)}; it must hold a list of rows, or one row per line")
    at = _skip_space(text, at + 1)
    while not text.startswith("]", at):
        _, end = decoder.raw_decode(text, at)
        yield at, end
        at = _skip_space(text, end)
        if not text.startswith((",", "]"), at):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        at = _skip_space(text, at + 1) if text[at] == "," else at
    if (end := _skip_space(text, at + 1)) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _skip_space(text: str, at: int) -> int:
    return len(text) if (found := _NO_SPACE.search(text, at)) is None else found.start()

"""Cuts a stream of bytes into the records of its rows, each with its line; no byte is left out."""

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


class Record(NamedTuple):
    """The bytes of one row."""

    line: int
    """Where it starts, from 1."""
    start: int
    """The same in bytes."""
    raw: bytes
    problem: str | None = None
    """Why it is no row, where that is known without looking into it."""


def number_lines(stream: Iterable[bytes], name: str) -> Iterator[Record]:
    """Give lines as records, the first without the byte order mark that some editors write."""
    start = 0
    for number, line in enumerate(stream, start=1):
        if number == 1 and line.startswith(_UTF16_MARKS):
            raise DataError(f"{name}: not UTF-8 text but UTF-16; save the file as UTF-8")
        raw = line.removeprefix(_UTF8_MARK) if number == 1 else line
        yield Record(number, start + len(line) - len(raw), raw)
        start += len(line)


def read_ahead(lines: Iterator[Record]) -> list[Record]:
    """Read up to the first line that holds something."""
    read: list[Record] = []
    for line in lines:
        read.append(line)
        if line.raw.strip():
            break
    return read


def detect_kind(stated: str, line: bytes) -> str:
    """Tell the kind by the first line, which may be the start of a list or of lines of JSON."""
    line = line.strip()
    if stated == ".json":
        return ".json" if line.startswith(b"[") or line == b"{" else ".jsonl"
    if stated:
        return stated
    return ".json" if _LIST.match(line) else ".jsonl" if line.startswith(b"{") else ".txt"


def mark_empty(records: Iterator[Record]) -> Iterator[Record]:
    """Mark empty lines of a table, which would move the rows behind them, unless they are the last ones."""
    empty: list[Record] = []
    for record in records:
        if record.raw.strip(b"\r\n"):
            yield from (each._replace(problem="an empty line") for each in empty)
            empty.clear()
            yield record
        else:
            empty.append(record)


def join_quoted(lines: Iterator[Record], separator: str) -> Iterator[Record]:
    """Join the lines of records that have line ends within quotes."""
    for line in lines:
        if b'"' in line.raw:
            yield from _take_record(line, lines, separator)
        else:
            yield line


def _take_record(first: Record, lines: Iterator[Record], separator: str) -> list[Record]:
    taken = [first]

    def feed() -> Iterator[str]:
        yield first.raw.decode("latin-1")  # of any bytes; quotes and separators are the same
        for line in lines:
            taken.append(line)
            yield line.raw.decode("latin-1")

    try:
        next(csv.reader(feed(), delimiter=separator, strict=True), None)
    except csv.Error as error:
        if len(taken) > 1:  # a stray quote must not make one row of all that follows
            problem = f"in a text that begins with a quote in line {first.line} and does not end with one ({error})"
            return [each._replace(problem=problem) for each in taken]
    return [first._replace(raw=b"".join(each.raw for each in taken))]


def split_list(lines: Iterator[Record], name: str) -> Iterator[Record]:
    """Split one JSON list; its rows are read later, so that an odd one is one bad row."""
    first = next(lines, None)
    data = b"" if first is None else b"".join([first.raw, *(each.raw for each in lines)])
    text = data.decode("latin-1")  # a character for each byte, so that places are bytes; JSON's own signs are ASCII
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
    """Find where the items of a list start and end."""
    decoder = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=len)  # numbers of any length
    at = _skip(text, 0)
    if not text.startswith("[", at):
        value, _ = decoder.raw_decode(text, at)
        raise DataError(f"{name}: holds {describe_kind(value)}; it must hold a list of rows, or one row per line")
    at = _skip(text, at + 1)
    while not text.startswith("]", at):
        _, end = decoder.raw_decode(text, at)
        yield at, end
        at = _skip(text, end)
        if not text.startswith((",", "]"), at):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        at = _skip(text, at + 1) if text[at] == "," else at
    if (end := _skip(text, at + 1)) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def _skip(text: str, at: int) -> int:
    return len(text) if (found := _NO_SPACE.search(text, at)) is None else found.start()

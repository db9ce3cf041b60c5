"""Reads tables of separated values record by record: a broken record does not break those behind it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import Any

from utils.errors import DataError

Row = dict[str, Any]


def read_separated(lines: Iterable[str], separator: str, name: str) -> Iterator[tuple[int, Row, str | None]]:
    """Read records with the columns of the first one.

    Args:
        lines: With their ends.
        separator: One character.
        name: Of the file, for messages.

    Yields:
        The line where a record starts, its values by column (None where it has too few), and what is wrong with it.

    Raises:
        DataError: The first line names a column twice, or none.
    """
    csv.field_size_limit(2**31 - 1)  # a document may be longer than the library's 128 KiB
    reader = csv.reader(lines, delimiter=separator)
    header = _read_header(reader, name)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, {}, f"not a record of a table ({error})"
            continue
        if not fields:
            continue
        row: Row = dict(zip(header, fields + [None] * (len(header) - len(fields)), strict=False))  # type: ignore[list-item]
        if len(fields) > len(header):
            yield start, row, f"{len(fields)} fields where the header has {len(header)}; put such texts in quotes"
        else:
            yield start, row, None


def _read_header(reader: Any, name: str) -> list[str]:
    try:
        header: list[str] = next(reader, [])
    except csv.Error as error:
        raise DataError(f"{name}:1: the header cannot be read ({error})") from None
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise DataError(f"{name}:1: the header names a column twice: {', '.join(twice)}")
    return header

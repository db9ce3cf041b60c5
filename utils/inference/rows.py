"""Reads rows of text from a file, and writes answers beside them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from utils.errors import DataError, UserError

Row = dict[str, Any]

INPUT_KINDS = (".txt", ".jsonl", ".csv", ".tsv")
OUTPUT_KINDS = (".jsonl", ".csv", ".tsv")


def check_paths(source: str | Path, target: str | Path) -> None:
    """Check what can be checked of the files before a model is loaded.

    Raises:
        UserError: A kind is unknown, there is no input, or the output would overwrite it.
    """
    read, written = Path(source).expanduser(), Path(target).expanduser()
    if read.suffix not in INPUT_KINDS:
        raise UserError(f"{source}: unknown kind of file; use one of {', '.join(INPUT_KINDS)}")
    if not read.is_file():
        raise UserError(f"{source}: no such file")
    if written.suffix not in OUTPUT_KINDS:
        raise UserError(f"{target}: unknown kind of output; use one of {', '.join(OUTPUT_KINDS)}")
    if read.resolve() == written.resolve():
        raise UserError("--output_file is the input file; name another")


def read_rows(path: str | Path, columns: Sequence[str]) -> Iterator[Row]:
    """Read a file lazily; every row has the columns, as texts, and whatever else the file has.

    A txt file has one text per line, which is the first column.

    Raises:
        DataError: The file or a line cannot be read; the line is named.
    """
    file = Path(path).expanduser()
    if file.suffix == ".txt" and len(columns) > 1:
        raise DataError(f"{path}: rows need the columns {', '.join(columns)}; use a jsonl or csv file")
    with _open(file) as stream:
        for number, row in _parse(stream, file, columns):
            missing = [column for column in columns if row.get(column) is None]
            if missing:
                there = ", ".join(key for key, value in row.items() if value is not None)
                raise DataError(f"{path}:{number}: no column {', '.join(missing)}; there are: {there}")
            yield {**row, **{column: str(row[column]) for column in columns}}


@contextmanager
def write_answers(path: str | Path) -> Iterator[AnswerWriter]:
    """Open a file for answers; it appears under its name only when the last one is written.

    Raises:
        UserError: The file cannot be written.
    """
    file = Path(path).expanduser()
    partial = file.with_name(f"{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        stream = partial.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    with stream:
        yield AnswerWriter(stream, file.suffix)
    partial.replace(file)


class AnswerWriter:
    """Writes rows with their answers, one at a time."""

    def __init__(self, stream: IO[str], kind: str) -> None:
        self._stream = stream
        self._kind = kind
        self._table: csv.DictWriter[str] | None = None

    def write(self, row: Row) -> None:
        """Write one row; in a table, probabilities get a column each."""
        if self._kind == ".jsonl":
            self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            return
        flat = {key: value for key, value in row.items() if key != "probabilities"}
        flat |= {f"probability_{name}": share for name, share in row.get("probabilities", {}).items()}
        flat.setdefault("truncated", False)
        if self._table is not None and (new := flat.keys() - set(self._table.fieldnames)):
            names = ", ".join(sorted(new))
            raise DataError(f"a row has the column {names}, which the first row has not; write a .jsonl file")
        if self._table is None:
            delimiter = "\t" if self._kind == ".tsv" else ","
            self._table = csv.DictWriter(self._stream, list(flat), delimiter=delimiter)
            self._table.writeheader()
        self._table.writerow(flat)


@contextmanager
def _open(file: Path) -> Iterator[IO[str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        try:
            yield stream
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 text ({error.reason}); save the file as UTF-8") from None


def _parse(stream: IO[str], file: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    if file.suffix in (".csv", ".tsv"):
        yield from _parse_table(stream, file)
        return
    yield from _parse_lines(stream, file, columns)


def _parse_table(stream: IO[str], file: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(2**31 - 1)  # a document may be longer than the library's 128 KiB
    table = csv.DictReader(stream, delimiter="\t" if file.suffix == ".tsv" else ",")
    try:
        for row in table:
            if None in row:
                raise DataError(f"{file}:{table.line_num}: more fields than the header; put such texts in quotes")
            yield table.line_num, dict(row)
    except csv.Error as error:
        raise DataError(f"{file}:{table.line_num}: {error}") from None


def _parse_lines(lines: Iterable[str], file: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n")
        if file.suffix == ".txt":
            yield number, {columns[0]: text}
        elif text.strip():
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise DataError(f"{file}:{number}: not JSON ({error.msg} at column {error.colno})") from None
            if not isinstance(row, dict):
                raise DataError(f"{file}:{number}: a line must be one JSON object")
            yield number, row

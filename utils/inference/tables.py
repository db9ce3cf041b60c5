"""Writes all answers to one file of the kind that its name says, row by row."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from utils.core.errors import UserError
from utils.core.json_files import parse_json
from utils.results.excel import guard_formula
from utils.results.json_file import replace_file

logger = logging.getLogger(__name__)

Results = Callable[[], Iterator[bytes]]
"""Gives every answer as JSON, in order; as often as it is called."""

_SHEET_ROWS, _SHEET_COLUMNS = 1_048_576, 16_384
_BLOCK = 1024


def write_results(results: Results, target: Path) -> None:
    """Write a file whole or not at all.

    A table has a column for every key of any row, and one for the probability of each class; what a cell cannot hold
    (lists, objects) is written as JSON.

    Args:
        results: The answers.
        target: Its suffix says the kind.

    Raises:
        UserError: The file cannot be written, or a sheet cannot hold so many rows.
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
    """Give an answer's cells by column."""
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
        logger.warning("%d cells that a spreadsheet would take for a formula begin with an apostrophe now", num_guarded)


def _write_sheet(results: Results, path: Path) -> None:
    from openpyxl import Workbook

    from utils.results.excel import write_rows

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
    book.save(path)


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
    """Find one type for all values of each column: the numbers' wider one, or text."""
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

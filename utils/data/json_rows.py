"""Reads JSON and JSON-lines files row by row, so that one odd row is one bad row and not a broken file."""

from __future__ import annotations

import json
import mmap
from array import array
from pathlib import Path
from typing import Any

from utils.data.texts import RowError, describe_kind
from utils.errors import DataError


class JsonLines:
    """A file of one JSON object per line; lines are parsed when they are asked for, and empty ones passed over.

    Args:
        path: The file, which must not change while it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers, self._starts, self._ends = array("q"), array("q"), array("q")
        with path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, start=1):
                if line.strip():
                    self._numbers.append(number)
                    self._starts.append(start)
                    self._ends.append(start + len(line))
                start += len(line)
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if start else b""

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, index: int) -> dict[str, Any]:
        """Parse one line.

        Raises:
            RowError: It is no JSON object.
        """
        raw = self._bytes[self._starts[index] : self._ends[index]]
        try:
            return _require_object(json.loads(raw.decode("utf-8-sig")))
        except UnicodeDecodeError as error:
            raise RowError("not UTF-8 text; save the file as UTF-8") from error
        except json.JSONDecodeError as error:
            raise RowError(f"not JSON ({error.msg} at column {error.colno})") from error
        except RecursionError as error:
            raise RowError("not a row: lists within lists without end") from error

    def place(self, index: int) -> str:
        """Name the line."""
        return f"{self.path}:{self._numbers[index]}"


class JsonList:
    """A file that holds one list of objects.

    Args:
        path: The file.

    Raises:
        DataError: It is not JSON; the line is named.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            rows = json.loads(path.read_bytes().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text; save the file as UTF-8") from error
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(rows, list):
            raise DataError(f"{path}: holds {describe_kind(rows)}; it must hold a list of rows, or one row per line")
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> dict[str, Any]:
        """Give one row.

        Raises:
            RowError: It is no object.
        """
        return _require_object(self._rows[index])

    def place(self, index: int) -> str:
        """Name the row."""
        return f"{self.path}, row {index}"


def open_json(path: Path) -> JsonLines | JsonList:
    """Open a file of rows: a list where it starts with a bracket, or holds one object over several lines.

    Raises:
        DataError: The file holds no rows.
    """
    with path.open("rb") as file:
        head = file.read(4096).decode("utf-8", errors="replace").lstrip("\ufeff").lstrip()
    if path.suffix == ".json" and (head.startswith("[") or head.splitlines()[:1] == ["{"]):
        rows: JsonLines | JsonList = JsonList(path)
    else:
        rows = JsonLines(path)
    if len(rows) == 0:
        raise DataError(f"{path}: the file holds no rows")
    return rows


def _require_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError(f"{describe_kind(value)} where a row, one JSON object, was due")
    return value

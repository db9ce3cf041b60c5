"""The file of predictions: appended to batch by batch, whole lines only, so that a kill loses one batch at most."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from utils.core.json_files import NotJsonError, find_object, parse_json

logger = logging.getLogger(__name__)

Record = dict[str, Any]


def scan_records(path: Path) -> Iterator[tuple[int, Record]]:
    """Read the whole records of a file one by one and, at its end, cut off what comes after; none without a file.

    Yields:
        The place of a record in the file, for `read_at`, and the record.
    """
    if not path.exists():
        return
    num_records, stop = 0, 0
    with path.open("rb") as file:
        for line in file:
            record = _parse(line) if line.endswith(b"\n") else None
            if record is None:
                break
            yield stop, record
            num_records, stop = num_records + 1, stop + len(line)
    if stop < path.stat().st_size:
        logger.warning("%s: cut off behind its %d whole lines; what follows was not written whole", path, num_records)
        os.truncate(path, stop)


def read_at(path: Path, places: Iterable[int]) -> Iterator[Record]:
    """Read records by their places in the file."""
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            record = _parse(file.readline())
            assert record is not None, f"{path}: no record at {place}"
            yield record


def append_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records and see to it that they are on the disk."""
    with path.open("ab") as file:
        file.write(b"".join(_encode(record) for record in records))
        file.flush()
        os.fsync(file.fileno())


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a file anew: a reader sees the old one or the new one."""
    _replace(path, map(_encode, records))


def write_object(path: Path, data: Mapping[str, Any]) -> None:
    """Write one JSON object, whole or not at all."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    _replace(path, [(text + "\n").encode("utf-8", errors="backslashreplace")])


def read_object(path: Path) -> Record | None:
    """Read a JSON object; None when there is no such file or it is not one."""
    return find_object(path) or None


def _encode(record: Mapping[str, Any]) -> bytes:
    # Half of a surrogate pair, which UTF-8 cannot hold, becomes JSON's own way of writing it.
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", errors="backslashreplace")


def _parse(line: bytes) -> Record | None:
    try:
        data = parse_json(line)
    except NotJsonError:
        return None
    return data if isinstance(data, dict) else None


def _replace(path: Path, content: Iterable[bytes]) -> None:
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with beside.open("wb") as file:
            file.writelines(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)

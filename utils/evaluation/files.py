"""The files of an evaluation: answers appended batch by batch in whole lines, so that a kill loses one batch."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config.sections.model import is_local
from utils.core.json_files import NotJsonError, find_object, parse_json
from utils.core.replace_file import replace_file, replace_text

logger = logging.getLogger(__name__)

PREDICTIONS = "predictions.jsonl"
RESULTS = "results.json"
IDENTITY = "identity.json"
FINAL_RESULTS = "final_eval_results.json"

Record = dict[str, Any]


@dataclass(frozen=True)
class SetFiles:
    """The files of one set's evaluation, in their own folder, or with a prefix among those of other sets."""

    folder: Path
    prefix: str = ""

    @property
    def predictions(self) -> Path:
        """The answers, one per line."""
        return self.folder / f"{self.prefix}{PREDICTIONS}"

    @property
    def results(self) -> Path:
        """The score."""
        return self.folder / f"{self.prefix}{RESULTS}"

    @property
    def identity(self) -> Path:
        """The identity of the answers; hidden if it is among other sets' files."""
        return self.folder / (f".{self.prefix}{IDENTITY}" if self.prefix else IDENTITY)


def step_folder(run: Path, step: int) -> Path:
    """Return the folder of a step's evaluation."""
    return run / f"eval_step_{step}"


def name_model(name_or_path: str) -> str:
    """Return a model's name for file names: the last part of a local folder, a whole hub id with `_` for `/`."""
    name = Path(name_or_path).expanduser().resolve().name if is_local(name_or_path) else name_or_path
    return name.replace("/", "_")


def copy_answers(source: SetFiles, own: SetFiles) -> None:
    """Copy a set's answers, unless the target already has the same."""
    identity, before = read_object(source.identity), read_object(own.identity)
    if identity is None or not source.predictions.exists() or before == identity:
        return
    if before is None and any(path.exists() for path in (own.results, own.predictions)):
        return  # of something else: the evaluation refuses to overwrite it
    own.folder.mkdir(exist_ok=True)
    for path in (own.results, own.predictions):
        path.unlink(missing_ok=True)
    for name in ("identity", "predictions", "results"):
        if getattr(source, name).exists():
            shutil.copyfile(getattr(source, name), getattr(own, name))


def scan_records(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield the complete records of a file, then truncate what follows the last one; none without a file.

    Yields:
        The offset of a record in the file, for `read_at`, and the record.
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
        logger.warning("%s: truncated after its %d complete lines; the rest was partially written", path, num_records)
        os.truncate(path, stop)


def read_at(path: Path, places: Iterable[int]) -> Iterator[Record]:
    """Yield records by their offsets in the file."""
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            record = _parse(file.readline())
            assert record is not None, f"{path}: no record at {place}"
            yield record


def append_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append records and flush them to disk."""
    with path.open("ab") as file:
        file.write(b"".join(_encode(record) for record in records))
        file.flush()
        os.fsync(file.fileno())


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a file atomically."""
    with replace_file(path) as beside, beside.open("wb") as file:
        file.writelines(map(_encode, records))


def write_object(path: Path, data: Mapping[str, Any]) -> None:
    """Write one JSON object atomically."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    replace_text(path, text + "\n", errors="backslashreplace")


def read_object(path: Path) -> Record | None:
    """Read a JSON object; None if there is no such file, or it holds something else."""
    return find_object(path) or None


def _encode(record: Mapping[str, Any]) -> bytes:
    # A lone surrogate, which UTF-8 cannot encode, is written as a JSON escape.
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", errors="backslashreplace")


def _parse(line: bytes) -> Record | None:
    try:
        data = parse_json(line)
    except NotJsonError:
        return None
    return data if isinstance(data, dict) else None

"""Writes files atomically, and renames existing files that are in the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and move it into place if the block succeeds.

    The folder is created. Readers see either the old file or the new one, even after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def replace_text(path: Path, text: str, encoding: str = "utf-8", errors: str = "strict") -> None:
    """Write a text file atomically, using `replace_file`."""
    with replace_file(path) as beside:
        beside.write_text(text, encoding=encoding, errors=errors, newline="\n")


def set_aside(path: Path) -> Path:
    """Rename a file or folder that is in the way to `<name>.old_<now>`, and return the new path."""
    target = path.with_name(f"{path.name}.old_{utc_timestamp()}")
    path.rename(target)
    return target


def utc_timestamp() -> str:
    """Format the current time, to the microsecond, for use in a file name."""
    return datetime.now(timezone.utc).strftime("%Y%m%d_%H%M%S_%f")

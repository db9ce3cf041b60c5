"""Writes files atomically, and renames existing files that are in the way."""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import shutil
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
    beside = _temporary_path(path)
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


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield an empty folder next to a path, which is removed afterwards with everything still in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = _temporary_path(path)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary_path(path: Path) -> Path:
    """Return this process's temporary path next to a path, after removing those left by killed processes."""
    before, number = f".{path.stem}.{_host_id()}-", os.getpid()
    for left in path.parent.glob(f"{glob.escape(before)}*{glob.escape(path.suffix)}"):
        other = left.name.removeprefix(before).removesuffix(path.suffix)
        if other == str(number) or not _is_running(other):
            shutil.rmtree(left, ignore_errors=True)  # does nothing to a file
            if left.is_file():
                left.unlink(missing_ok=True)
    return path.with_name(f"{before}{number}{path.suffix}")


def _host_id() -> str:
    """Return an id of the machine or container, in which process ids are unique; others may share the disk."""
    try:
        inner = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        inner = 0
    return hashlib.sha256(f"{platform.node()} {inner}".encode()).hexdigest()[:8]


def _is_running(number: str) -> bool:
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, OverflowError):  # another user's, or not our file name
        return True
    return True


def set_aside(path: Path) -> Path:
    """Rename a file or folder that is in the way to `<name>.old_<now>`, and return the new path."""
    target = path.with_name(f"{path.name}.old_{utc_timestamp()}")
    path.rename(target)
    return target


def utc_timestamp() -> str:
    """Format the current time, to the microsecond, for use in a file name."""
    return datetime.now(timezone.utc).strftime("%Y%m%d_%H%M%S_%f")

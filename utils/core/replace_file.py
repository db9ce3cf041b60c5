"""Writes files whole or not at all, and sets aside what is in the way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Give the path of a file beside this one to write to, and put it in place when all went well.

    The file's folder is made. A reader sees the old file or the new one, also after a power cut.
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
    """Write a text in the place of a file, as `replace_file` does."""
    with replace_file(path) as beside:
        beside.write_text(text, encoding=encoding, errors=errors, newline="\n")


def set_aside(path: Path) -> Path:
    """Rename a file or folder that is in the way to `<name>.old_<now>`; gives where it is then."""
    target = path.with_name(f"{path.name}.old_{stamp_now()}")
    path.rename(target)
    return target


def stamp_now() -> str:
    """Write the moment, to the microsecond, as a part of a name."""
    return datetime.now(timezone.utc).strftime("%Y%m%d_%H%M%S_%f")

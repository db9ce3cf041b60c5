"""Makes of what can be read only once, a pipe or /dev/stdin, a file that can be read again."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from utils.core.errors import DataError


@cache
def spool(path: Path) -> Path:
    """Copy what can be read only once (a pipe, /dev/stdin) to a temporary file; other files are themselves.

    Raises:
        DataError: It cannot be read, or several processes would share it.
    """
    if not is_stream(path):
        return path
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DataError(f"{path}: is a pipe, which only one of the processes could read; write the rows to a file")
    with explain_unreadable(str(path)), path.open("rb") as stream:
        kept = tempfile.NamedTemporaryFile(prefix="lora_ns_", suffix=path.suffix, delete=False)  # noqa: SIM115
        atexit.register(Path(kept.name).unlink, missing_ok=True)
        with kept:
            shutil.copyfileobj(stream, kept)
    return Path(kept.name)


def is_stream(path: Path) -> bool:
    """Tell a pipe or a device from a file that can be read again."""
    return os.path.exists(path) and not (path.is_file() or path.is_dir())  # Path.exists raises for a long name


@contextmanager
def explain_unreadable(name: str) -> Iterator[None]:
    """Turn the system's refusal into a sentence."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error

"""Restrict a folder to one run, and writing to the folder itself: folders from elsewhere may contain links."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import IO

from utils.core.errors import UserError
from utils.core.locks import try_lock

LOCK_FILE = ".lock"

logger = logging.getLogger(__name__)


def require_no_links_out(folder: Path, pattern: str = "*") -> None:
    """Reject a folder with a link to its outside, as writing through it would replace an unrelated file.

    The folder may be missing, or a link itself, which was the user's choice. `pattern` matches what will be written.
    """
    root = os.path.realpath(folder)
    for top in folder.glob(pattern):
        below = (Path(parent, name) for parent, folders, files in os.walk(top) for name in (*folders, *files))
        for path in (top, *below):
            if path.is_symlink() and not Path(target := os.path.realpath(path)).is_relative_to(root):
                raise UserError(
                    f"{path} is a link to {target}, outside the folder, and nothing is written there; remove the link, "
                    "or name another folder"
                )


def lock_folder(path: Path) -> IO[str]:
    """Lock a folder, creating it if needed, against a second run until the file is closed or the process ends."""
    file = _open_own(path)
    if not try_lock(file):
        raise UserError(f"{path} is in use by another run; wait for it, or give another training.output_dir")
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _open_own(path: Path) -> IO[str]:
    """Open the lock file, unless it is a link to another file."""
    lock = path / LOCK_FILE
    strange = f"{lock} is a link or not a regular file, so it is not written; remove it"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if lock.is_symlink():
            raise UserError(strange)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise UserError(f"training.output_dir: {path} cannot be written: {error.strerror}") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise UserError(strange)
    return os.fdopen(descriptor, "a", encoding="utf-8")

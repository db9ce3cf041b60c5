"""Keeps a folder to one run, and writes inside it only: a folder from elsewhere may hold links to other files."""

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
    """Refuse a folder that holds a link out of itself: what is written there would replace somebody else's file.

    The folder may be missing, and may be a link itself: that was the user's choice. `pattern` is what will be written.
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
    """Keep a second run off a folder, which is made if it is missing, until the file is closed or the process ends."""
    file = _open_own(path)
    if not try_lock(file):
        raise UserError(f"{path} is in use by another run; wait for it, or give another training.output_dir")
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _open_own(path: Path) -> IO[str]:
    """Open the lock's file, and no other one under another name."""
    lock = path / LOCK_FILE
    strange = f"{lock} is a link, or no plain file, so it is not written; remove it"
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

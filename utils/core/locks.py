"""File locks between processes; a file system without a lock service causes a warning."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_NO_SERVICE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

logger = logging.getLogger(__name__)


@contextmanager
def try_lock_folder(folder: Path) -> Iterator[bool]:
    """Lock a folder itself, without a file in it, while the block runs; yields False if another process holds it."""
    number = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(number, str(folder), fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(number)


def try_lock(file: IO[Any], shared: bool = False) -> bool:
    """Acquire a lock without waiting, held until the file is closed; return False if another process holds it.

    Args:
        file: A file open for writing. On a file system without locks, it counts as locked, with a warning.
        shared: Allow other processes to hold the lock too, if theirs is shared as well.
    """
    return _lock(file.fileno(), file.name, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def acquire_lock(file: IO[Any], shared: bool = False) -> None:
    """Wait until the lock is free, and acquire it."""
    _lock(file.fileno(), file.name, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def _lock(number: int, name: str, kind: int) -> bool:
    try:
        fcntl.flock(number, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_SERVICE:
            raise
        logger.warning("%s cannot be locked (%s); see that nothing else uses its folder", name, error.strerror)
    return True

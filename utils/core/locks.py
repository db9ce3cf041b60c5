"""File locks between processes; a file system without a lock service causes a warning."""

from __future__ import annotations

import errno
import fcntl
import logging
from typing import IO, Any

_NO_SERVICE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

logger = logging.getLogger(__name__)


def try_lock(file: IO[Any], shared: bool = False) -> bool:
    """Acquire a lock without waiting, held until the file is closed; return False if another process holds it.

    Args:
        file: A file open for writing. On a file system without locks, it counts as locked, with a warning.
        shared: Allow other processes to hold the lock too, if theirs is shared as well.
    """
    return _lock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def acquire_lock(file: IO[Any], shared: bool = False) -> None:
    """Wait until the lock is free, and acquire it."""
    _lock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def _lock(file: IO[Any], kind: int) -> bool:
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_SERVICE:
            raise
        logger.warning("%s cannot be locked (%s); see that nothing else uses its folder", file.name, error.strerror)
    return True

"""Keeps processes out of each other's way by locks on files; a disk without a lock service gets a warning."""

from __future__ import annotations

import errno
import fcntl
import logging
from typing import IO, Any

_NO_SERVICE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

logger = logging.getLogger(__name__)


def try_lock(file: IO[Any], shared: bool = False) -> bool:
    """Take a lock at once, until the file is closed; False where another process has it.

    Args:
        file: Open for writing. On a disk without a lock service it counts as taken, with a warning.
        shared: Let others have it too, as long as they share it as well.
    """
    return _lock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def wait_for(file: IO[Any], shared: bool = False) -> None:
    """Take a lock as soon as nobody else has it."""
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

"""Tells a full disk from other failures, however the library that wrote has put it, and what is still free."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.core.errors import LoraNsError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FAILING = (errno.EIO, errno.EROFS, errno.ESTALE)
_WORDS = re.compile(
    r"os error (\d+)|PytorchStreamWriter failed|iostream error|unexpected pos|No space left on device|file write failed"
)


class DiskFullError(LoraNsError):
    """There is no room for what has to be written."""


def is_full_disk(error: BaseException) -> bool:
    """Tell whether a write failed for want of room.

    torch, safetensors and tokenizers raise errors of their own, which say it in their texts or, torch's, hardly.
    """
    if isinstance(error, OSError):
        return error.errno in _FULL
    found = _WORDS.search(str(error))
    return found is not None and (found[1] is None or int(found[1]) in _FULL)


def measure_free(folder: Path) -> int:
    """Give the bytes that are free where a folder is, or will be."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def format_size(num_bytes: float) -> str:
    """Write a number of bytes for people."""
    for unit in ("bytes", "KB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Turn what a full or failing disk raises into one sentence.

    Raises:
        DiskFullError: In place of the library's error.
    """
    try:
        yield
    except Exception as error:  # tokenizers raises nothing narrower
        if isinstance(error, OSError) and error.errno in _FAILING:
            raise DiskFullError(f"the disk of {folder} fails: {error.strerror}; what was whole stays") from None
        if not is_full_disk(error):
            raise
        free = format_size(measure_free(folder))
        raise DiskFullError(
            f"the disk of {folder} is full ({free} free); what was whole stays: make room, then --resume"
        ) from None

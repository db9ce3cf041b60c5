"""Tells errors that libraries raise for unusable files from our own bugs, which keep their traceback."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.core.errors import LoraNsError, UserError
from utils.core.project import IS_INSTALLED

_OURS = str(Path(__file__).parents[1])
_REMEDIES = {
    errno.ENAMETOOLONG: "the file name is too long; use a shorter one",
    errno.EACCES: "you may not open it; ask its owner, or use another location",
    errno.EPERM: "you may not change it; ask its owner, or use another location",
    errno.EROFS: "nothing can be written there; use another location",
    errno.ENOSPC: "the disk is full; free some space, then run the same command again",
    errno.EDQUOT: "your share of the disk is full; free some space, then run the same command again",
    errno.EFBIG: "files may not become this large here; raise the limit (ulimit -f), then run the same command again",
    errno.ENOENT: "it is not there; was a folder renamed or deleted meanwhile?",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.EISDIR: "it is a folder where a file was expected; copy the folder that holds it again",
    errno.ELOOP: "its links form a loop",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ESTALE: "the disk is gone; try again when it is back",
    errno.EIO: "the disk fails",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = re.compile(
    r"os error (\d+)|PytorchStreamWriter failed|iostream error|unexpected pos|No space left on device|file write failed"
)
_OF_MACHINE = {*_REMEDIES} - {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
"""Errors that a file's content cannot cause."""


def is_of_library(error: BaseException) -> bool:
    """Return whether an error was raised inside a library because of its input, not by our own code."""
    if isinstance(error, LoraNsError) or not isinstance(error, Exception):
        return False
    if isinstance(error, OSError) and error.errno in _OF_MACHINE:
        return False
    if type(error) is Exception or type(error).__module__.startswith("safetensors"):
        return True  # raised by tokenizers and safetensors, which leave no frame of their own
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and not trace.tb_frame.f_code.co_filename.startswith(_OURS)


def require_readable(folder: Path) -> None:
    """Open each file of a folder once, since safetensors reports unreadable files as missing.

    Raises:
        OSError: A file cannot be opened; `explain_machine` turns this into a sentence.
    """
    for file in folder.iterdir():
        if file.is_file():
            file.open("rb").close()


def describe(error: BaseException) -> str:
    """Describe a library's error in one line."""
    try:
        text = error.msg if isinstance(error, SyntaxError) else str(error)  # else it repeats file and line
    except Exception:  # noqa: BLE001  the __str__ of a user's own error can raise anything
        text = ""
    lines = text.strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def explain_library(say: Callable[[str], LoraNsError]) -> Iterator[None]:
    """Turn a library's error about a damaged file into a sentence; other errors pass through.

    Args:
        say: Builds the error to raise from a one-line description of the library's error.
    """
    try:
        yield
    except Exception as error:  # anything that a file's values may cause in library code
        of_machine = isinstance(error, OSError) and (error.strerror or isinstance(error, TimeoutError))
        if of_machine or not is_of_library(error):
            raise
        raise say(describe(error)) from error


def explain_machine(error: Exception) -> UserError | None:
    """Explain what the machine refused or lacks, or why a path is invalid; None for other errors."""
    if isinstance(error, ModuleNotFoundError):
        return _explain_missing(error)
    if not isinstance(error, OSError) and is_full_disk(error):
        return UserError(f"a file cannot be written: {_REMEDIES[errno.ENOSPC]}")
    if isinstance(error, RuntimeError):
        return _explain_memory(error) or _explain_path(error)
    if not isinstance(error, OSError) or error.errno not in _REMEDIES:
        return None
    name = f"{error.filename}"[:120]
    where = f"{name}: " if error.filename is not None else ""
    return UserError(f"{where}{error.strerror}; {_REMEDIES[error.errno]}")


def is_full_disk(error: BaseException) -> bool:
    """Return whether a write failed because the disk is full.

    torch, safetensors and tokenizers raise their own errors, which say so only in their texts, torch's barely.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    found = _FULL_WORDS.search(str(error))
    if found is not None and not isinstance(error, OSError) and (found[1] is None or int(found[1]) in _FULL):
        return True
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return before is not None and is_full_disk(before)  # datasets fails once more when it closes its file


def _explain_missing(error: ModuleNotFoundError) -> UserError | None:
    """Explain a missing dependency: usually another Python than the one that was set up is running."""
    if is_of_library(error) or error.name is None or error.name.startswith(__name__.partition(".")[0]):
        return None
    remedy = "run `make setup` once, and `source .venv/bin/activate` in each new shell (INSTALL.md)"
    remedy = f"run pip install {error.name}, in the environment of lora-ns" if IS_INSTALLED else remedy
    return UserError(f"{error.name} is not installed for {sys.executable}: {remedy}")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether memory ran out: torch raises a class of its own on GPUs, and a plain RuntimeError on CPUs."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def _explain_memory(error: RuntimeError) -> UserError | None:
    if not is_out_of_memory(error):
        return None
    asked = re.search(r"allocate (\d+ bytes|[\d.]+ \w+)", str(error))
    return UserError(
        f"out of memory{f' ({asked[1]} at once)' if asked else ''}: this machine does not hold what is asked for; take "
        "a smaller model, rank, batch or length"
    )


def _explain_path(error: RuntimeError) -> UserError | None:
    """Explain pathlib's errors: an unknown user's home directory, or a path that is nested too deeply."""
    in_pathlib = Path(traceback.extract_tb(error.__traceback__)[-1].filename).name in ("pathlib.py", "_local.py")
    if in_pathlib and isinstance(error, RecursionError):
        return UserError("a path has more folders than can be created; use a shorter one")
    if in_pathlib and "home directory" in str(error):
        return UserError("a path begins with ~ and the name of a user whom this machine does not know; write it out")
    return None

"""Tells what libraries raise over files that they cannot use from our own mistakes, which keep their traceback."""

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
    errno.ENAMETOOLONG: "a file cannot have so long a name; give a shorter one",
    errno.EACCES: "you may not open it; ask its owner, or name another place",
    errno.EPERM: "you may not change it; ask its owner, or name another place",
    errno.EROFS: "nothing can be written there; name another place",
    errno.ENOSPC: "the disk is full; make room, then give the same command again",
    errno.EDQUOT: "your share of the disk is full; make room, then give the same command again",
    errno.ENOENT: "it is not there; was a folder renamed or deleted meanwhile?",
    errno.ENOTDIR: "a part of its name is a file and no folder",
    errno.EISDIR: "it is a folder where a file was expected; copy the folder that holds it again",
    errno.ELOOP: "its links go in a circle",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ESTALE: "the disk is gone; try again when it is back",
    errno.EIO: "the disk fails",
}
_OF_MACHINE = {*_REMEDIES} - {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
"""What no content of a file leads to."""


def is_of_library(error: BaseException) -> bool:
    """Tell whether an error was raised inside a library, over what it read, and not by a line of ours."""
    if isinstance(error, LoraNsError) or not isinstance(error, Exception):
        return False
    if isinstance(error, OSError) and error.errno in _OF_MACHINE:
        return False
    if type(error) is Exception or type(error).__module__.startswith("safetensors"):
        return True  # what tokenizers and safetensors, which leave no frame of their own, raise
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and not trace.tb_frame.f_code.co_filename.startswith(_OURS)


def require_readable(folder: Path) -> None:
    """Open each file of a folder once: safetensors says of one that may not be read that it is not there.

    Raises:
        OSError: One cannot be opened; `explain_machine` has the sentence.
    """
    for file in folder.iterdir():
        if file.is_file():
            file.open("rb").close()


def describe(error: BaseException) -> str:
    """Say in one line what a library raised."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


@contextmanager
def explain_library(say: Callable[[str], LoraNsError]) -> Iterator[None]:
    """Turn what a library raises over a damaged file into a sentence; all else passes through.

    Args:
        say: Makes the sentence of the library's own line.
    """
    try:
        yield
    except Exception as error:  # whatever a file's values lead to, in code that is not ours
        of_machine = isinstance(error, OSError) and (error.strerror or isinstance(error, TimeoutError))
        if of_machine or not is_of_library(error):
            raise
        raise say(describe(error)) from error


def explain_machine(error: OSError | RuntimeError | ModuleNotFoundError) -> UserError | None:
    """Say what the machine refused or lacks, or why a path means nothing on it; None for errors of no such kind."""
    if isinstance(error, ModuleNotFoundError):
        return _explain_missing(error)
    if isinstance(error, RuntimeError):
        return _explain_memory(error) or _explain_path(error)
    if error.errno not in _REMEDIES:
        return None
    name = f"{error.filename}"[:120]
    where = f"{name}: " if error.filename is not None else ""
    return UserError(f"{where}{error.strerror}; {_REMEDIES[error.errno]}")


def _explain_missing(error: ModuleNotFoundError) -> UserError | None:
    """Explain that a library of ours is not there: mostly another Python than the one set up was called."""
    if is_of_library(error) or error.name is None or error.name.startswith(__name__.partition(".")[0]):
        return None
    remedy = "run `make setup` once, and `source .venv/bin/activate` in each new shell (INSTALL.md)"
    remedy = f"run pip install {error.name}, in the environment of lora-ns" if IS_INSTALLED else remedy
    return UserError(f"{error.name} is not installed for {sys.executable}: {remedy}")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether memory ran out: torch has a class for it on GPUs, and on CPUs words."""
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
    """Explain what pathlib raises: of the home of nobody, and of a path of a thousand folders."""
    in_pathlib = Path(traceback.extract_tb(error.__traceback__)[-1].filename).name in ("pathlib.py", "_local.py")
    if in_pathlib and isinstance(error, RecursionError):
        return UserError("a path leads through more folders than can be made; give a shorter one")
    if in_pathlib and "home directory" in str(error):
        return UserError("a path begins with ~ and the name of a user whom this machine does not know; write it out")
    return None

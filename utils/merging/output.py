"""The output folder of a merge, which gets its name only when its content is verified."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.core.errors import UserError
from utils.core.locks import try_lock_folder
from utils.core.replace_file import set_aside

logger = logging.getLogger(__name__)

REPORT_FILE = "merge_report.json"
"""Report of the verification; a folder that has it is a merged model."""
_SPARE = 64 * 2**20  # tokenizer, configuration, report


def check_output(name: str, overwrite: bool, needed: Iterable[Path]) -> Path:
    """Check the output folder, which may be missing, as far as possible before anything is loaded.

    `needed` are folders that are read and must not be renamed with the output: the run, the adapter, the base.
    """
    output = Path(name).expanduser().absolute()
    if os.path.exists(output) and not output.is_dir():
        raise UserError(f"{name}: is a file; name a folder")
    for each in needed:
        if output.resolve() in (each.resolve(), *each.resolve().parents):
            raise UserError(f"{name}: contains the model to be merged; name another output folder")
    if os.path.isdir(output) and any(output.iterdir()) and not overwrite:
        raise UserError(f"{name}: is not empty; name another folder, or rename this one with --overwrite")
    return output


@contextmanager
def open_output(output: Path) -> Iterator[Path]:
    """Yield a temporary folder, which gets the output's name on success and is removed on failure.

    A kill leaves the folder `<output>.partial`, which the next call removes. An existing output is renamed, not
    deleted.

    Raises:
        UserError: The folder cannot be made, or another command is writing it.
    """
    partial = output.with_name(f"{output.name}.partial")
    new = [each for each in output.parents if not each.exists()]
    try:
        _remove_left(partial)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{partial}: cannot be made: {error.strerror}") from None
    with try_lock_folder(partial):
        yield from _fill(partial, output, new)


def _remove_left(partial: Path) -> None:
    """Remove what a killed command left, unless another command still writes it."""
    if partial.is_dir():
        with try_lock_folder(partial) as is_free:
            if not is_free:
                raise UserError(f"{partial}: another command is writing it; wait for its end, or name another output")
            shutil.rmtree(partial, ignore_errors=True)


def _fill(partial: Path, output: Path, new: Iterable[Path]) -> Iterator[Path]:
    try:
        yield partial
        for each in filter(Path.is_file, partial.rglob("*")):
            each.chmod(partial.stat().st_mode & 0o666)  # safetensors creates weights readable by the owner only
        if output.is_dir() and any(output.iterdir()):
            logger.warning("%s: the previous content is now %s", output, set_aside(output).name)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # folders with other content are kept
            for each in new:
                each.rmdir()


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise an error if the disk has no space for the weights."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes + _SPARE:
        needed, there = (f"{each / 2**30:.1f} GiB" for each in (num_bytes + _SPARE, free))
        raise UserError(f"{folder.parent}: the merged model needs {needed}, and {there} are free; name another disk")

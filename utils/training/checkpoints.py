"""The checkpoints of a run on the disk: which are whole, which is the best, and which may go."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection
from pathlib import Path

_STATE = "trainer_state.json"
_ONLY_EVALUATED = ".only_for_evaluation"


def find_checkpoints(folder: Path) -> list[Path]:
    """List the whole checkpoints of a run, oldest first; what a kill left half-written is passed over."""
    return [each for each in _list_folders(folder) if is_whole(each)]


def find_checkpoint(folder: Path, step: int) -> Path | None:
    """Find the whole checkpoint of a step."""
    path = folder / f"checkpoint-{step}"
    return path if path.is_dir() and is_whole(path) else None


def is_whole(checkpoint: Path) -> bool:
    """The trainer's state is written last, and not at one go: it can be read where all of it was written."""
    try:
        return isinstance(json.loads((checkpoint / _STATE).read_text("utf-8")), dict)
    except (OSError, ValueError):
        return False


def link_best(folder: Path, checkpoint: Path | None) -> None:
    """Let best_model point at the best checkpoint; None: there is none."""
    link, beside = folder / "best_model", folder / ".best_model"
    if checkpoint is None or not checkpoint.is_dir():
        if link.is_symlink():
            link.unlink()
        return
    beside.unlink(missing_ok=True)
    beside.symlink_to(checkpoint.name)
    beside.replace(link)


def mark_checkpoint(folder: Path, step: int, only_for_evaluation: bool) -> None:
    """Note whether a checkpoint was saved only so that an evaluation could be resumed, and its best step kept."""
    marker = folder / f"checkpoint-{step}" / _ONLY_EVALUATED
    if only_for_evaluation:
        marker.touch()
    else:
        marker.unlink(missing_ok=True)


def remove_checkpoints(folder: Path, newest: int, kept: Collection[Path], limit: int | None) -> None:
    """Remove what is not needed any more.

    A checkpoint that was saved only for an evaluation goes as soon as there is a newer one; of the others the oldest
    go until `limit` are left, as transformers does it.

    Args:
        folder: The run's.
        newest: Step of the checkpoint from which the run is resumed.
        kept: Best ones, never removed.
        limit: Checkpoints to keep in all; None or 0: any number.
    """
    protected = {each.resolve() for each in kept} | {(folder / f"checkpoint-{newest}").resolve()}
    left = [each for each in _list_folders(folder) if _step_of(each) <= newest]
    for each in [*left]:
        if each.resolve() not in protected and (each / _ONLY_EVALUATED).exists():
            shutil.rmtree(each, ignore_errors=True)
            left.remove(each)
    protected_left = [each for each in left if each.resolve() in protected]
    wanted = max(limit, len(protected_left)) if limit else len(left)
    removable = [each for each in left if each not in protected_left]
    for each in removable[: max(len(left) - wanted, 0)]:
        shutil.rmtree(each, ignore_errors=True)


def set_aside_later(folder: Path, step: int, target: Path) -> list[Path]:
    """Move the checkpoints behind a step into a folder: a run that goes on from there writes them anew.

    Args:
        folder: The run's.
        step: The step from which it goes on.
        target: Made where there is something to move.

    Returns:
        What was moved, as it was called.
    """
    later = [each for each in _list_folders(folder) if _step_of(each) > step]
    for each in later:
        target.mkdir(exist_ok=True)
        each.rename(target / each.name)
    return later


def _list_folders(folder: Path) -> list[Path]:
    found = [each for each in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", each.name)]
    return sorted(found, key=_step_of)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])

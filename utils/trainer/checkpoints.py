"""The checkpoints of a run that is evaluated as it is trained: which is the best, and which belong to later steps."""

from __future__ import annotations

from pathlib import Path

from utils.trainer.checkpoint_files import ONLY_EVALUATED, find_flaw, find_step, list_checkpoints


def find_checkpoint(folder: Path, step: int) -> Path | None:
    """Find the whole checkpoint of a step."""
    path = folder / f"checkpoint-{step}"
    return path if path.is_dir() and find_flaw(path) is None else None


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
    marker = folder / f"checkpoint-{step}" / ONLY_EVALUATED
    if not marker.parent.is_dir():
        return  # the disk was full, and training goes on
    if only_for_evaluation:
        marker.touch()
    else:
        marker.unlink(missing_ok=True)


def set_aside_later(folder: Path, step: int, target: Path) -> list[Path]:
    """Move the checkpoints behind a step into a folder: a run that goes on from there writes them anew.

    Args:
        folder: The run's.
        step: The step from which it goes on.
        target: Made where there is something to move.

    Returns:
        What was moved, as it was called.
    """
    later = [each for each in list_checkpoints(folder) if find_step(each) > step]
    for each in later:
        target.mkdir(exist_ok=True)
        each.rename(target / each.name)
    return later

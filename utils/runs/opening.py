"""Open a run's output folder, new or to resume, or explain why it cannot be used."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from utils.config.run_config import BEST_KEYS, RESUMABLE_KEYS, RunConfig, find_differences
from utils.core.errors import ConfigError, UserError
from utils.core.logs import is_main_process
from utils.core.replace_file import set_aside, utc_timestamp
from utils.results.record import RunRecord, read_record
from utils.runs.inputs import copy_extensions, holds_resolved, read_resolved, require_same_inputs, write_resolved
from utils.runs.own_folder import LOCK_FILE, lock_folder, require_no_links_out
from utils.tasks.task import load_task
from utils.trainer.checkpoint_files import (
    clear_leftovers,
    find_checkpoints,
    find_flaw,
    find_lost_state,
    find_step,
    list_checkpoints,
    set_aside_later,
)

logger = logging.getLogger(__name__)


@dataclass
class RunFolder:
    """An open output folder, locked against a second run until it is closed; a context manager closes it."""

    path: Path
    resume_from: str | None = None
    """Checkpoint folder to continue from."""
    finished: RunRecord | None = None
    """Record of a finished run with the same configuration."""
    changed: dict[str, Any] | None = None
    """Keys that differ from the resumed run, with old and new value."""
    _lock: IO[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another run use the folder; also one of this process."""
        if self._lock is not None:
            self._lock.close()

    @property
    def final_model(self) -> Path:
        """Folder of the exported model."""
        return self.path / "final_model"


def open_run_folder(config: RunConfig, resume: str | None = None, overwrite: bool = False) -> RunFolder:
    """Open the folder of a run; rows and base of a resumed or finished one must be unchanged.

    `resume` is `last` for the newest checkpoint, or the name or path of one; None for a new run. With `overwrite` a
    folder in the way is renamed; nothing is deleted.

    Raises:
        UserError: The folder holds another run, or an unfinished one, or cannot be written; or rows or base have
        changed. Nothing in the folder is changed then.
    """
    path = Path(config.training.output_dir).expanduser()
    if not is_main_process():
        return _join(path, config, resume, overwrite)
    _refuse(path, resume, overwrite)
    lock = lock_folder(path)
    _clear_leftovers(path)
    # The lock moves with the renamed folder, so the new one needs its own.
    if overwrite and any(each.name != LOCK_FILE for each in path.iterdir()):
        _set_aside(path)
        lock.close()
        lock = lock_folder(path)
    try:
        resolved = read_resolved(path, mend=True)
        folder = RunFolder(path) if resolved is None else _reopen(path, config, resolved, resume)
        if folder.finished is None:
            copy_extensions(path, config)
            write_resolved(path, config.to_yaml(in_run=True))
    except BaseException:
        lock.close()
        raise
    folder._lock = lock
    return folder


def _refuse(path: Path, resume: str | None, overwrite: bool) -> None:
    if resume and overwrite:
        raise UserError("--resume continues a run and --overwrite starts over; give one of them")
    if path.exists() and not path.is_dir():
        raise UserError(f"training.output_dir: {path} is a file; name a folder")
    if overwrite and path.resolve() in (here := Path.cwd(), *here.parents):
        raise UserError(f"training.output_dir: {path} holds the working directory and is not renamed; name another")
    holds_run = path.is_dir() and holds_resolved(path)
    if path.is_dir() and not overwrite:
        require_no_links_out(path)
        if not holds_run:
            _refuse_foreign(path)
    if resume and not holds_run:
        raise UserError(f"{path} holds no run to resume; leave --resume out to start one")


def _join(path: Path, config: RunConfig, resume: str | None, overwrite: bool) -> RunFolder:
    """Decide as the main process does, but without writing; the main process's rejection ends all processes."""
    if resume:
        return RunFolder(path, _find_resume(path, resume, not config.arguments.get("save_only_model")))
    resolved = None if overwrite else read_resolved(path)
    record = read_record(path) if resolved and not find_differences(resolved, config.to_dict()) else None
    return RunFolder(path, finished=record if record is not None and record.status == "success" else None)


def _reopen(path: Path, config: RunConfig, resolved: dict[str, Any], resume: str | None) -> RunFolder:
    differences = find_differences(resolved, config.to_dict())
    record = read_record(path)
    finished = record if record is not None and record.status == "success" else None
    if finished is not None and not differences:
        require_same_inputs(path, config, "is done, and cannot be reused")
        return RunFolder(path, finished=finished)
    if resume:
        return _resume(path, resume, config, differences, finished is not None)
    if differences and not holds_work(path):
        logger.info("%s: an earlier start failed before its first checkpoint; it is started again", path)
        return RunFolder(path)
    if differences:
        raise UserError(
            f"{path} holds a run of another configuration: {_list(differences)}; give another training.output_dir, "
            "or --overwrite (the old folder is renamed, not deleted)"
        )
    if find_checkpoints(path):
        raise UserError(
            f"{path} holds an unfinished run of this configuration; --resume continues it, --overwrite starts over"
        )
    return RunFolder(path)


def _resume(
    path: Path, resume: str, config: RunConfig, differences: dict[str, tuple[Any, Any]], finished: bool
) -> RunFolder:
    """Continue an unfinished run, or extend a finished one."""
    blocking = _find_blocking(config, differences)
    if blocking:
        raise UserError(
            f"{path} was started with another configuration and cannot be resumed with this one: {_list(blocking)}"
        )
    checkpoint = _find_resume(path, resume, not config.arguments.get("save_only_model"))
    if checkpoint is not None and resume != "last":
        _require_own(path, Path(checkpoint), config)
    if checkpoint is not None:
        require_same_inputs(path, config, "cannot be resumed")
    if checkpoint is not None and resume != "last":
        _set_aside_later(path, Path(checkpoint))
    if differences:
        logger.warning("resuming with changed settings: %s", _list(differences))
    if finished:
        _keep_results(path)
    changed = {key: list(pair) for key, pair in differences.items()}
    return RunFolder(path, checkpoint, changed=changed or None)


def _require_own(path: Path, checkpoint: Path, config: RunConfig) -> None:
    """Reject another run's checkpoint, which would mix rows, order and optimizer of two runs."""
    home = checkpoint.resolve().parent
    if path.resolve() in (home, home.parent):
        return
    other = read_resolved(home)
    if other is None:
        raise UserError(
            f"--resume {checkpoint}: there is no run.yaml beside it, so its run is unknown; copy "
            f"it into {path}, if it is this run's"
        )
    blocking = _find_blocking(config, find_differences(other, config.to_dict()))
    if blocking:
        raise UserError(f"--resume {checkpoint}: its run has another configuration: {_list(blocking)}")


def _find_blocking(config: RunConfig, differences: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Return the differences with which a run cannot be resumed."""
    free = RESUMABLE_KEYS | (BEST_KEYS if load_task(config.task).evaluates_itself(config) else frozenset())
    return {key: pair for key, pair in differences.items() if key not in free}


def _set_aside_later(path: Path, checkpoint: Path) -> None:
    """Move away checkpoints after the resumed one, from which a later --resume would otherwise continue."""
    if re.fullmatch(r"checkpoint-\d+", checkpoint.name) is None:
        return
    target = path / f"earlier_checkpoints_{utc_timestamp()}"
    if later := set_aside_later(path, find_step(checkpoint), target):
        logger.warning("%s, after %s, moved to %s", ", ".join(each.name for each in later), checkpoint.name, target)


def _keep_results(path: Path) -> None:
    target = path / f"earlier_results_{utc_timestamp()}"
    target.mkdir()
    names = ("results.json", "results.xlsx", "all_results.json", "train_results.json", "eval_results.json")
    for name in (*names, "report.html", "curves.csv", "curves.svg", "curves.png"):
        if (path / name).exists():
            (path / name).rename(target / name)
    logger.info("the finished run's results are now in %s", target)


def holds_work(path: Path) -> bool:
    """Return whether a run got far enough to have work that could be lost."""
    return bool(find_checkpoints(path)) or any((path / name).exists() for name in ("final_model", "all_results.json"))


def _find_resume(path: Path, resume: str, with_state: bool) -> str | None:
    """Find the checkpoint to continue from.

    `with_state` requires optimizer, schedule and random state, which a run with `save_only_model` does not save.
    """
    found = _find_newest(path, with_state) if resume == "last" else _find_named(path, resume, with_state)
    if found is not None and (lost := find_lost_state(Path(found))):
        logger.warning("%s: training.save_only_model is set, and %s", found, lost)
    return found


def _find_named(path: Path, resume: str, with_state: bool) -> str:
    for candidate in (path / resume, Path(resume).expanduser()):
        if candidate.is_dir() and (flaw := _find_any_flaw(candidate, with_state)) is None:
            return str(candidate)
        if candidate.is_dir():
            raise UserError(f"--resume {resume}: {candidate} is not a complete checkpoint: {flaw}")
    names = ", ".join(checkpoint.name for checkpoint in find_checkpoints(path)) or "none"
    raise UserError(f"--resume {resume}: no such complete checkpoint; {path} has: {names}")


def _find_any_flaw(checkpoint: Path, with_state: bool) -> str | None:
    return find_flaw(checkpoint) or (find_lost_state(checkpoint) if with_state else None)


def _find_newest(path: Path, with_state: bool) -> str | None:
    """Find the newest complete checkpoint, and log those skipped; None: the run stopped before its first."""
    there = list_checkpoints(path)
    for each in reversed(there):
        if (flaw := _find_any_flaw(each, with_state)) is None:
            return str(each)
        logger.warning("%s is skipped: %s", each, flaw)
    if there or (path / "final_model").exists():
        raise UserError(f"{path} has no complete checkpoint to resume from; leave --resume out to start")
    logger.info("%s: the run was stopped before its first checkpoint; it starts from the beginning", path)
    return None


def _clear_leftovers(path: Path) -> None:
    """Remove what a kill left partially written, and restore a final_model that was being replaced."""
    for name in clear_leftovers(path):
        logger.warning("%s: writing %s was interrupted; its partial files are removed", path, name)
    old, final = path / "final_model.old", path / "final_model"
    if old.is_dir() and not final.exists():
        old.rename(final)
    for leftover in (old, path / "final_model.partial"):
        shutil.rmtree(leftover, ignore_errors=True)


def _refuse_foreign(path: Path) -> None:
    strange = [each.name for each in path.iterdir() if each.name not in (LOCK_FILE, "logs")]
    if strange:
        raise ConfigError(
            f"training.output_dir: {path} is not empty and not a run's folder (it holds "
            f"{', '.join(sorted(strange)[:3])}); name another, or --overwrite (the folder is renamed, not deleted)"
        )


def _set_aside(path: Path) -> None:
    try:
        target = set_aside(path)
    except OSError as error:
        raise UserError(f"training.output_dir: {path} cannot be renamed: {error.strerror}") from None
    logger.info("%s is now %s", path, target)


def _list(differences: dict[str, tuple[Any, Any]]) -> str:
    return "; ".join(f"{key} was {old!r}, is {new!r}" for key, (old, new) in differences.items())

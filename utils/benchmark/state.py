"""The status of each run, the suite's note beside its folder, and the locks that separate suites and shards.

A run's own record (results.json) has its measurements; the note has what only the suite knows: that a run timed out,
was killed by a signal, or is running now.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal

from utils.benchmark.plan import PlannedRun
from utils.config.run_config import find_differences
from utils.core.errors import UserError
from utils.core.locks import acquire_lock, try_lock
from utils.results.json_file import read_json, write_json
from utils.results.record import RunRecord, read_record
from utils.runs.inputs import holds_resolved, read_resolved
from utils.runs.opening import holds_work
from utils.runs.own_folder import require_no_links_out
from utils.trainer.checkpoint_files import find_checkpoints

RunStatus = Literal["running", "success", "failed", "timed out", "interrupted"]
PlannedStatus = Literal["done", "failed", "timed out", "interrupted", "running", "changed", "to do"]

LOCKS = ".locks"
_PROBES = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunState:
    """State of the last attempt at a run."""

    status: RunStatus
    fingerprint: str
    """Fingerprint of the attempted configuration."""
    attempts: int = 1
    """Attempts at this configuration that failed or timed out, including this one."""
    exit_code: int | None = None
    """Exit code of the process; -N: ended by signal N."""
    started: str | None = None
    """ISO 8601, UTC."""
    ended: str | None = None
    note: str = ""
    """One sentence why it did not succeed."""


def state_file(folder: Path) -> Path:
    """Return the path of a run's note, outside the run's folder, which a new start may rename."""
    return folder.parent / f"{folder.name}.state.json"


def read_state(folder: Path) -> RunState | None:
    """Read the suite's note of a run; None if it was never started, or the note is unreadable.

    A note that says running without anybody holding the run's lock is of a killed suite: interrupted.
    """
    path = state_file(folder)
    try:
        data = read_json(path)
    except UserError as error:
        logger.warning("%s", error)
        return None
    if data is None or not {"status", "fingerprint"} <= data.keys():
        return None
    # Later versions may add keys.
    state = RunState(**{each.name: data[each.name] for each in fields(RunState) if each.name in data})
    if state.status == "running" and not is_locked(lock_of_run(folder)):
        note = "the suite was killed while it ran"
        return RunState("interrupted", state.fingerprint, state.attempts, started=state.started, note=note)
    return state


def write_state(folder: Path, state: RunState) -> None:
    """Write a run's note atomically."""
    values: dict[str, Any] = {name: value for name, value in asdict(state).items() if value not in (None, "")}
    write_json(state_file(folder), values)


def find_status(run: PlannedRun) -> PlannedStatus:
    """Return a run's status; `changed`: the folder has a finished run of another configuration."""
    record = _read_whole_record(run)
    if record is not None and record.status == "success":
        return "done" if is_of_run(record, run) else "changed"
    state = find_state(run)
    return "to do" if state is None or state.status == "success" else state.status


def is_finished(run: PlannedRun) -> bool:
    """Return whether the folder has a successful run of the same configuration."""
    return find_status(run) == "done"


def is_of_run(record: RunRecord, run: PlannedRun) -> bool:
    """Return whether a record is of the run's configuration.

    An older version's fingerprint lacks newer keys; run.yaml, where these have their defaults, is compared instead.
    """
    if record.config_fingerprint == run.fingerprint or run.config.get("extensions"):
        return record.config_fingerprint == run.fingerprint
    try:
        resolved = read_resolved(run.folder)
    except UserError:
        return False
    return resolved is not None and not find_differences(resolved, run.config)


def find_state(run: PlannedRun) -> RunState | None:
    """Read the suite's note of this configuration; a note of another one is ignored."""
    state = read_state(run.folder)
    return state if state is not None and state.fingerprint == run.fingerprint else None


def _read_whole_record(run: PlannedRun) -> RunRecord | None:
    try:
        return read_record(run.folder)
    except UserError:
        return None


def choose_resume_flags(run: PlannedRun) -> list[str]:
    """Choose train.py's options for the folder's content; nothing in it is deleted.

    A stopped run continues from its last checkpoint. One that failed, or whose configuration has changed, starts over,
    and its old work is renamed.
    """
    if not holds_resolved(run.folder) or not holds_work(run.folder):
        # train.py accepts an empty folder, and rejects one with other files.
        return [] if _is_readable(run) else ["--overwrite"]
    state = find_state(run)
    failed = state is not None and state.status == "failed"
    failed = failed or find_status(run) == "changed"  # such as its extensions, not part of the run's file
    if failed or not _is_readable(run) or find_differences(read_resolved(run.folder) or {}, run.config):
        return ["--overwrite"]
    return ["--resume"] if find_checkpoints(run.folder) else []


def _is_readable(run: PlannedRun) -> bool:
    """Return whether run.yaml (or a copy) and the record are readable, as far as they exist."""
    try:
        read_record(run.folder)
        read_resolved(run.folder)
    except UserError:
        return False
    return True


def lock_of_run(folder: Path) -> Path:
    """Return the path of the lock that a suite holds while it works on a run."""
    return folder.parent.parent / LOCKS / f"{folder.name}.lock"


def is_locked(path: Path) -> bool:
    """Return whether another process holds a lock."""
    try:
        file = path.open("r+", encoding="utf-8")
    except OSError:
        return False
    with file:
        return not try_lock(file)


def take_lock(path: Path, shared: bool = False) -> IO[str] | None:
    """Take a lock until the file is closed or the process ends; None if another process has it.

    A shared lock can be held by several processes that all share it.

    Raises:
        UserError: The folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{path.parent.parent} cannot be written: {error.strerror}; give another --output_dir"
        ) from None
    for attempt in range(_PROBES):  # a process that only checks the lock holds it for an instant
        if try_lock(file, shared):
            return file
        time.sleep(0.02 * (attempt < _PROBES - 1))
    file.close()
    return None


def lock_suite(output: Path, shard: tuple[int, int] | None, single: bool = False) -> list[IO[str]]:
    """Lock a folder against other suites; shards, one process each, and single runs share it.

    `shard` is the index, from 1, and the number of parts. The locks hold while the files are open.

    Raises:
        UserError: Another suite, or the same shard, is working there, or the folder contains a link to its outside.
    """
    require_no_links_out(output)
    locks = output / LOCKS
    # A whole suite locks the first file exclusively; shards share it, and each locks its own.
    whole = take_lock(locks / "suite.lock", shared=single or shard is not None)
    if whole is None:
        raise UserError(f"{output} is in use by another suite; wait for it, or give another --output_dir")
    if shard is None:
        return [whole]
    part = take_lock(locks / f"shard_{shard[0]}_of_{shard[1]}.lock")
    if part is None:
        whole.close()
        raise UserError(f"{output}: shard {shard[0]}/{shard[1]} is running already; wait for it, or start another one")
    return [whole, part]


def wait_for_lock(path: Path) -> IO[str]:
    """Take a lock, waiting for its holder; for short work only, such as writing the reports."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    acquire_lock(file)
    return file

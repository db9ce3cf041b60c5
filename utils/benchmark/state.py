"""The status of each run, what a suite notes of it beside its folder, and the locks that keep suites and shards apart.

A run's own record (results.json) says what it measured; the note says what only the suite knows: that a run was
stopped for its time, killed by a signal, or is being worked on now.
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
    """How the last attempt at a run stands."""

    status: RunStatus
    fingerprint: str
    """Of the configuration that was attempted."""
    attempts: int = 1
    """Attempts at this configuration that failed or timed out, this one included."""
    exit_code: int | None = None
    """Of the process; -N: ended by signal N."""
    started: str | None = None
    """ISO 8601, UTC."""
    ended: str | None = None
    note: str = ""
    """One sentence: why it did not succeed."""


def state_file(folder: Path) -> Path:
    """Name the note of a run: it stands beside the run's folder, which a new start may rename."""
    return folder.parent / f"{folder.name}.state.json"


def read_state(folder: Path) -> RunState | None:
    """Read what the suite noted of a run; None when it was never started, or the note is torn.

    A note that says running while nobody holds the run's lock is of a suite that was killed: interrupted.
    """
    path = state_file(folder)
    try:
        data = read_json(path)
    except UserError as error:
        logger.warning("%s", error)
        return None
    if data is None or not {"status", "fingerprint"} <= data.keys():
        return None
    # A later version may note more.
    state = RunState(**{each.name: data[each.name] for each in fields(RunState) if each.name in data})
    if state.status == "running" and not is_locked(lock_of_run(folder)):
        note = "the suite was killed while it ran"
        return RunState("interrupted", state.fingerprint, state.attempts, started=state.started, note=note)
    return state


def write_state(folder: Path, state: RunState) -> None:
    """Note how a run stands, whole or not at all."""
    values: dict[str, Any] = {name: value for name, value in asdict(state).items() if value not in (None, "")}
    write_json(state_file(folder), values)


def find_status(run: PlannedRun) -> PlannedStatus:
    """Find a run's status: `changed` holds a finished run of another configuration."""
    record = _read_whole_record(run)
    if record is not None and record.status == "success":
        return "done" if is_of(record, run) else "changed"
    state = find_state(run)
    return "to do" if state is None or state.status == "success" else state.status


def is_finished(run: PlannedRun) -> bool:
    """Tell whether the folder holds a successful run of this very configuration."""
    return find_status(run) == "done"


def is_of(record: RunRecord, run: PlannedRun) -> bool:
    """Tell whether a record is of a run's very configuration.

    An earlier version's fingerprint lacks keys of today: then run.yaml is compared, in which these have their defaults.
    """
    if record.config_fingerprint == run.fingerprint or run.config.get("extensions"):
        return record.config_fingerprint == run.fingerprint
    try:
        resolved = read_resolved(run.folder)
    except UserError:
        return False
    return resolved is not None and not find_differences(resolved, run.config)


def find_state(run: PlannedRun) -> RunState | None:
    """Read what a suite noted of this configuration; a note about another one does not count."""
    state = read_state(run.folder)
    return state if state is not None and state.fingerprint == run.fingerprint else None


def _read_whole_record(run: PlannedRun) -> RunRecord | None:
    try:
        return read_record(run.folder)
    except UserError:
        return None


def choose_resume_flags(run: PlannedRun) -> list[str]:
    """Choose how train.py meets what is in the folder; nothing there is deleted.

    A run that was stopped continues from its last checkpoint. One that failed, or whose configuration has changed,
    starts over, and what the old one had worked out is renamed.
    """
    if not holds_resolved(run.folder) or not holds_work(run.folder):
        # train.py takes an empty folder as it is, and refuses one that holds something else.
        return [] if _is_readable(run) else ["--overwrite"]
    state = find_state(run)
    failed = state is not None and state.status == "failed"
    failed = failed or find_status(run) == "changed"  # its extensions, say, which no file of the run shows
    if failed or not _is_readable(run) or find_differences(read_resolved(run.folder) or {}, run.config):
        return ["--overwrite"]
    return ["--resume"] if find_checkpoints(run.folder) else []


def _is_readable(run: PlannedRun) -> bool:
    """Tell whether run.yaml, or a copy of it, and the record, where they are there, are whole."""
    try:
        read_record(run.folder)
        read_resolved(run.folder)
    except UserError:
        return False
    return True


def lock_of_run(folder: Path) -> Path:
    """Name the lock that a suite holds while it works on a run."""
    return folder.parent.parent / LOCKS / f"{folder.name}.lock"


def is_locked(path: Path) -> bool:
    """Tell whether another process holds a lock."""
    try:
        file = path.open("r+", encoding="utf-8")
    except OSError:
        return False
    with file:
        return not try_lock(file)


def take_lock(path: Path, shared: bool = False) -> IO[str] | None:
    """Take a lock until the file is closed or the process ends; None when somebody else has it.

    A shared lock lets others have it too, as long as they share it as well.

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
    for attempt in range(_PROBES):  # who only looks whether it is taken has it for an instant
        if try_lock(file, shared):
            return file
        time.sleep(0.02 * (attempt < _PROBES - 1))
    file.close()
    return None


def lock_suite(output: Path, shard: tuple[int, int] | None, single: bool = False) -> list[IO[str]]:
    """Keep other suites off a folder; shards share it, each part with one process, and so do single runs.

    `shard` says which part of how many, from 1. The locks hold as long as the files are open.

    Raises:
        UserError: Another suite, or the same shard, is at work there, or the folder holds a link out of itself.
    """
    require_no_links_out(output)
    locks = output / LOCKS
    # A whole suite takes the first lock alone; shards share it, and each takes its own beside it.
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
    """Take a lock, waiting for who has it; for short work only, such as writing the reports."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    acquire_lock(file)
    return file

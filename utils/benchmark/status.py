"""The status of a planned run, read from its folder, and the flags by which train.py goes on with it."""

from __future__ import annotations

from typing import Literal

from utils.benchmark.plan import PlannedRun
from utils.benchmark.state import RunState, read_state
from utils.config.run_config import find_differences
from utils.core.errors import UserError
from utils.results.record import RunRecord, read_record
from utils.runs.opening import holds_work
from utils.runs.resolved_file import holds_resolved, read_resolved
from utils.trainer.checkpoint_files import find_checkpoints

PlannedStatus = Literal["done", "failed", "timed out", "interrupted", "running", "changed", "to do"]


def find_status(run: PlannedRun) -> PlannedStatus:
    """Find a run's status: `changed` holds a finished run of another configuration."""
    record = read_whole_record(run)
    if record is not None and record.status == "success":
        return "done" if record.config_fingerprint == run.fingerprint else "changed"
    state = find_state(run)
    return "to do" if state is None or state.status == "success" else state.status


def is_finished(run: PlannedRun) -> bool:
    """Tell whether the folder holds a successful run of this very configuration."""
    return find_status(run) == "done"


def find_state(run: PlannedRun) -> RunState | None:
    """Read what a suite noted of this configuration; a note about another one does not count."""
    state = read_state(run.folder)
    return state if state is not None and state.fingerprint == run.fingerprint else None


def read_whole_record(run: PlannedRun) -> RunRecord | None:
    """Read the run's record; one that is torn is none."""
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
        return [] if _is_readable(run) else ["--overwrite"]
    state = find_state(run)
    failed = state is not None and state.status == "failed"
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

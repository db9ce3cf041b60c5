"""What became of the planned runs: read from their folders alone, on whatever machine they were run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from utils.benchmark.state import read_state
from utils.core.errors import UserError
from utils.results.json_file import read_json
from utils.results.labels import Language
from utils.results.record import RunRecord, read_record

if TYPE_CHECKING:
    from utils.benchmark.plan import PlannedRun
    from utils.benchmark.state import RunState

OutcomeStatus = Literal["success", "failed", "timed out", "interrupted", "running", "missing"]

_LOG_TAIL = 8192  # bytes of a log's end in which its last line is looked for
_MAX_NOTE = 300


@dataclass(frozen=True)
class SuiteFacts:
    """What the reports need to know of a suite besides its runs."""

    name: str
    source: str
    """The suite's file."""
    tasks: tuple[str, ...]
    """Rows of the table, in their order."""
    methods: tuple[str, ...]
    """In their order."""
    references: tuple[str, ...] = ()
    """Those that every other one is compared with; (): the first."""
    baselines: tuple[str, ...] = ()
    """Rows that need no run of their own: `majority`."""
    language: Language = "en"
    """Of the column names."""
    workbook: str = "results"
    """File name of the .xlsx, with or without the ending; `{timestamp}` stands for when the last run ended."""
    command: str = ""
    """The command line by which the suite was planned, secrets masked."""


@dataclass(frozen=True)
class RunOutcome:
    """How one planned run stands."""

    run: PlannedRun
    status: OutcomeStatus
    record: RunRecord | None
    """From results.json; None when there is none of this configuration."""
    note: str = ""
    """One sentence: why there is no result."""
    epochs: float | None = None
    """Epochs that were trained."""


def collect_outcomes(runs: Sequence[PlannedRun]) -> list[RunOutcome]:
    """Read how each planned run stands, in the order of the plan; a folder that cannot be read is a failed run."""
    return [_read_outcome(run) for run in runs]


def _read_outcome(run: PlannedRun) -> RunOutcome:
    """Believe the run's own record first, then what the suite noted of it; both only for this configuration."""
    state = read_state(run.folder)
    if state is not None and state.fingerprint != run.fingerprint:
        state = None
    try:
        record = read_record(run.folder)
    except UserError as error:
        unreadable: OutcomeStatus = state.status if state and state.status != "success" else "failed"
        return RunOutcome(run, unreadable, None, _one_line(str(error)))
    if record is not None and record.config_fingerprint != run.fingerprint:
        other = "" if state else "its folder holds a run of another configuration"
        return _read_unfinished(run, None, state, other)
    if record is not None and record.status == "success":
        return RunOutcome(run, "success", record, epochs=_read_epochs(run.folder))
    return _read_unfinished(run, record, state, "")


def _read_unfinished(run: PlannedRun, record: RunRecord | None, state: RunState | None, note: str) -> RunOutcome:
    """Say why a run has no result: by the suite's note, the record's error, or the last line of its log."""
    status: OutcomeStatus = state.status if state else record.status if record else "missing"
    if status == "success":
        return RunOutcome(run, "missing", record, "the suite noted a success, but the folder holds no record of it")
    error = str(record.extra.get("error", "")) if record else ""
    note = note or (state.note if state else "") or error
    if not note and status in ("failed", "timed out"):
        note = _read_last_line(run.log)
    return RunOutcome(run, status, record, _one_line(note))


def _read_epochs(folder: Path) -> float | None:
    try:
        epochs = (read_json(folder / "all_results.json") or {}).get("epoch")
    except UserError:
        return None
    return float(epochs) if isinstance(epochs, int | float) else None


def _read_last_line(log: Path) -> str:
    """Give a log's last line that says something; empty when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _LOG_TAIL))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_NOTE else f"{line[: _MAX_NOTE - 3]}..."

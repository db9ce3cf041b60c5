"""Outcomes of the planned runs, read from their folders alone, wherever they ran."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from utils.benchmark.state import find_state, is_of_run
from utils.core.errors import UserError
from utils.results.json_file import read_json
from utils.results.labels import Language
from utils.results.record import RunRecord, read_record

if TYPE_CHECKING:
    from utils.benchmark.plan import PlannedRun
    from utils.benchmark.state import RunState

OutcomeStatus = Literal["success", "failed", "timed out", "interrupted", "running", "missing"]

MISMATCHED = "_mm"
"""Suffix of the keys of MNLI's second evaluation set."""

FIGURES = (
    "accuracy", "memory", "trainable_percent", "trainable_percent_packed", "total", "trainable", "loss", "f1",
    "pearson", "spearmanr", "matthews_correlation", "best", "last", "interval_low", "interval_high", "epochs",
    "seconds", "samples_per_s",
)  # fmt: skip
"""Measurements of a run; scores are 0 (or -1) to 1 as in the record, best and last are of the task's own metric."""

_SCORES = ("loss", "f1", "pearson", "spearmanr", "matthews_correlation")
_LOG_TAIL = 8192  # bytes at a log's end to search for its last lines
_MAX_NOTE = 300


@dataclass(frozen=True)
class SuiteFacts:
    """Facts about a suite that reports need besides its runs."""

    name: str
    source: str
    """The suite's file."""
    tasks: tuple[str, ...]
    """Tasks in the order of the table's rows."""
    methods: tuple[str, ...]
    """Methods in their order."""
    references: tuple[str, ...] = ()
    """Methods that all others are compared with; (): the first."""
    baselines: tuple[str, ...] = ()
    """Rows that need no run of their own: `majority`."""
    language: Language = "en"
    """Language of the column names."""
    workbook: str = "results"
    """File name of the .xlsx, with or without suffix; `{timestamp}` is the time when the last run ended."""
    command: str = ""
    """The command line that planned the suite, secrets masked."""


@dataclass(frozen=True)
class RunOutcome:
    """Outcome of one planned run."""

    run: PlannedRun
    status: OutcomeStatus
    record: RunRecord | None
    """Record from results.json; None if there is none of this configuration."""
    note: str = ""
    """One sentence why there is no result."""
    epochs: float | None = None
    """Number of trained epochs."""


def collect_outcomes(runs: Sequence[PlannedRun]) -> list[RunOutcome]:
    """Read the outcome of each planned run, in the plan's order; an unreadable folder is a failed run."""
    return [_read_outcome(run) for run in runs]


def read_last_lines(log: Path) -> list[str]:
    """Read the non-empty lines at a log's end, the last one first; none without a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _LOG_TAIL, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    # A progress bar overwrites its lines with carriage returns.
    return [line.strip() for line in reversed(text.splitlines()) if line.strip()]


def _read_outcome(run: PlannedRun) -> RunOutcome:
    """Read the run's own record, else the suite's note; both must be of this configuration."""
    state = find_state(run)
    try:
        record = read_record(run.folder)
    except UserError as error:  # an unreadable record is no success, whatever was noted
        unreadable: OutcomeStatus = state.status if state and state.status != "success" else "failed"
        return RunOutcome(run, unreadable, None, _one_line(str(error)))
    if record is not None and not is_of_run(record, run):
        other = "" if state else "its folder holds a run of another configuration"
        return _read_unfinished(run, None, state, other)
    if record is not None and record.status == "success":
        return RunOutcome(run, "success", record, epochs=_read_epochs(run.folder))
    return _read_unfinished(run, record, state, "")


def _read_unfinished(run: PlannedRun, record: RunRecord | None, state: RunState | None, note: str) -> RunOutcome:
    """Explain why a run has no result: by the suite's note, the record's error, or the last line of its log."""
    status: OutcomeStatus = state.status if state else record.status if record else "missing"
    if status == "success":
        return RunOutcome(run, "missing", record, "the suite noted a success, but the folder holds no record of it")
    error = str(record.extra.get("error", "")) if record else ""
    note = note or (state.note if state else "") or error
    if not note and status in ("failed", "timed out"):
        note = next(iter(read_last_lines(run.log)), "")
    return RunOutcome(run, status, record, _one_line(note))


def _read_epochs(folder: Path) -> float | None:
    try:
        epochs = (read_json(folder / "all_results.json") or {}).get("epoch")
    except UserError:
        return None
    return float(epochs) if isinstance(epochs, int | float) else None


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_NOTE else f"{line[: _MAX_NOTE - 3]}..."


def read_figures(outcome: RunOutcome, suffix: str = "") -> dict[str, float | str | None]:
    """Read one run's figures: FIGURES, finite or missing, and their kinds.

    `metric` is the task's own; `accuracy_is` is `pearson` if the task has no accuracy and Pearson's correlation
    replaces it; `memory_is` is vram or ram. Only a successful run has figures. `suffix` is that of the evaluation set:
    `""`, or `_mm` for MNLI mismatched, from the same checkpoint.
    """
    record = outcome.record
    if record is None or outcome.status != "success":
        return {"metric": outcome.run.metric}
    accuracy_is = "accuracy" if _is_number(record.metrics.get(f"accuracy{suffix}")) else "pearson"
    memory, memory_is = _read_memory(record)
    values: dict[str, float | None] = {
        **{name: record.metrics.get(name + suffix) for name in _SCORES},
        "accuracy": record.metrics.get(accuracy_is + suffix),
        "memory": memory,
        "trainable_percent": record.params.trainable_percent,
        "trainable_percent_packed": record.params.trainable_percent_packed,
        "total": record.params.total,
        "trainable": record.params.trainable,
        **_read_own_metric(record, suffix),
        "epochs": outcome.epochs,
        "seconds": record.time.train_runtime_s,
        "samples_per_s": record.time.samples_per_s,
    }
    figures = {name: float(value) for name, value in values.items() if value is not None and _is_number(value)}
    return {**figures, "metric": record.read_headline()[0], "accuracy_is": accuracy_is, "memory_is": memory_is}


def read_majority(outcomes: Sequence[RunOutcome]) -> tuple[dict[str, float | None], str]:
    """Read the scores of always predicting the most frequent training label, or the reason why they are unknown.

    Each run scores it on its own evaluation rows, so a task's runs agree unless their data differ; scores that then
    differ are left out, as they would be shown beside scores of other rows.
    """
    found = [each.record.baseline for each in outcomes if each.status == "success" and each.record is not None]
    found = [each for each in found if each]
    if not found:
        return {}, "no finished run has measured it"
    same = {name: value for name, value in found[0].items() if all(each.get(name, ...) == value for each in found)}
    return same, "" if all(each == same for each in found) else "not the same in all runs: their data differ"


def has_mismatched(outcome: RunOutcome) -> bool:
    """Return whether a run is, or would have been, also scored on MNLI's mismatched set."""
    if outcome.record is not None and any(name.endswith(MISMATCHED) for name in outcome.record.metrics):
        return True
    dataset = outcome.run.config.get("dataset")
    return isinstance(dataset, dict) and (dataset.get("name"), dataset.get("subset")) == ("glue", "mnli")


def _read_own_metric(record: RunRecord, suffix: str) -> dict[str, float | None]:
    """Read the task's own metric, of the kept weights and of the last step."""
    name, best = record.read_headline()
    if name is None:
        return {}
    if suffix:
        best = record.metrics.get(name + suffix)  # of the checkpoint that the matched set chose
    last = record.metrics_last.get(name + suffix) if record.metrics_last else best
    low, high = record.interval.get(name + suffix) or (None, None)
    return {"best": best, "last": last, "interval_low": low, "interval_high": high}


def _read_memory(record: RunRecord) -> tuple[float | None, str]:
    """Read peak memory: the GPU's if there is one, else the process's."""
    memory = record.memory
    if memory.peak_vram_gb is not None:
        return memory.peak_vram_gb, "vram"
    if memory.device == "cuda" or memory.peak_rss_gb is None:
        return None, ""
    return memory.peak_rss_gb, "ram"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

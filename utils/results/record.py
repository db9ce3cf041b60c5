"""The record of one run: results.json, version 1."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

from utils.core.errors import UserError
from utils.results.json_file import read_json, write_json

RESULTS_FILE = "results.json"
VERSION = 1

Status = Literal["success", "interrupted", "failed"]

logger = logging.getLogger(__name__)
_Part = TypeVar("_Part")


@dataclass(frozen=True)
class BestMetric:
    """The metric that chose the kept step, and its value there; the headline if the last step was kept."""

    name: str
    value: float | None = None
    step: int | None = None


@dataclass(frozen=True)
class ParamCounts:
    """Parameters as logical elements: a packed 4-bit weight counts its logical size."""

    trainable: int | None = None
    total: int | None = None
    trainable_percent: float | None = None
    """0 to 100."""
    trainable_percent_packed: float | None = None
    """The same with packed weights counted as stored, 0 to 100."""


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory, in units of 1024**3 bytes."""

    device: str | None = None
    """`cuda`, `cpu` ..."""
    peak_vram_gb: float | None = None
    """torch.cuda.max_memory_allocated, maximum over this run's devices."""
    peak_vram_reserved_gb: float | None = None
    peak_rss_gb: float | None = None
    """Resident memory of the process; with several, the largest."""
    per_process: dict[str, list[float]] | None = None
    """With several processes, each one's peaks in the order of their ranks."""


@dataclass(frozen=True)
class Timing:
    """Seconds, and rates per second."""

    train_runtime_s: float | None = None
    time_to_first_step_s: float | None = None
    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    """Real tokens, without padding."""
    total_s: float | None = None


@dataclass(frozen=True)
class DataCounts:
    """Numbers of rows."""

    train_rows: int | None = None
    eval_rows: int | None = None
    truncated_rows: int | None = None
    dropped_rows: int | None = None
    shared_rows: int | None = None
    """Rows in both the training and the validation split."""
    fingerprint: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """All measurements of one run; None means not measured, and is left out of the file."""

    PARTS: ClassVar[dict[str, Any]] = {
        "best_metric": BestMetric,
        "params": ParamCounts,
        "memory": PeakMemory,
        "time": Timing,
        "data": DataCounts,
    }

    status: Status
    task_name: str
    task_type: str
    method: str
    seed: int | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    """Metrics of the kept weights, from 0 to 1 if the metric is; including `loss`."""
    headline: str | None = None
    """The metric that the run is judged by; absent in older records, whose `best_metric` names it."""
    best_metric: BestMetric | None = None
    metrics_last: dict[str, float | None] = field(default_factory=dict)
    """Metrics of the last step's weights, if others were kept."""
    interval: dict[str, list[float]] = field(default_factory=dict)
    """95 % bootstrap interval [low, high] by metric."""
    baseline: dict[str, float | None] = field(default_factory=dict)
    """Score of always predicting the most frequent training label."""
    evaluation: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Scores of generated answers by evaluation set, with the protocol."""
    retention: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By set: under `metrics`, by metric, the scores of the base and the tuned model, the difference, its interval."""
    params: ParamCounts = field(default_factory=ParamCounts)
    memory: PeakMemory = field(default_factory=PeakMemory)
    time: Timing = field(default_factory=Timing)
    data: DataCounts = field(default_factory=DataCounts)
    reload_check: dict[str, Any] = field(default_factory=dict)
    """Figures of the check that the saved model is the trained one."""
    warnings: list[str] = field(default_factory=list)
    config_fingerprint: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Further top-level keys of the file."""

    def __post_init__(self) -> None:
        assert self.status in get_args(Status), f"got status {self.status!r}"

    def read_headline(self) -> tuple[str | None, float | None]:
        """Return the metric that the run is judged by, and its value for the kept weights."""
        best = self.best_metric
        name = self.headline or (best.name if best else None)
        return name, best.value if best and best.name == name else self.metrics.get(name or "")

    def to_json(self) -> dict[str, Any]:
        """Return the content of results.json, without what was not measured."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "extra"}
        shown = {name: _measured(value) if name in self.PARTS else value for name, value in values.items()}
        kept = {name: value for name, value in shown.items() if value is not None and value not in ({}, [])}
        return {"version": VERSION, **kept, **self.extra}


def write_record(folder: str | Path, record: RunRecord) -> Path:
    """Write results.json atomically; a number that is not finite becomes null, with a warning."""
    path = Path(folder) / RESULTS_FILE
    write_json(path, record.to_json())
    return path


def read_record(folder: str | Path) -> RunRecord | None:
    """Read a run folder's results.json; None if there is none.

    Raises:
        UserError: The file is incomplete, of another version, or lacks required keys.
    """
    path = Path(folder) / RESULTS_FILE
    data = read_json(path)
    if data is None:
        return None
    if (version := data.pop("version", None)) != VERSION:
        raise UserError(f"{path}: a record of version {version}, this program reads version {VERSION}")
    known = {each.name for each in fields(RunRecord)} - {"extra"}
    if missing := [name for name in ("status", "task_name", "task_type", "method") if name not in data]:
        raise UserError(f"{path}: not a record of a run, it lacks {', '.join(missing)}")
    if data["status"] not in get_args(Status):
        raise UserError(f"{path}: status {data['status']!r} is not one of {', '.join(get_args(Status))}")
    values = {name: _read_value(name, data[name], path) for name in data if name in known}
    return RunRecord(**values, extra={name: data[name] for name in data if name not in known})


def require_record(folder: str | Path) -> RunRecord:
    """Read a run folder's results.json.

    Raises:
        UserError: There is none, or it cannot be used.
    """
    if (record := read_record(folder)) is None:
        raise UserError(f"{folder}: no {RESULTS_FILE} here; name the training.output_dir of a finished run")
    return record


def _measured(part: Any) -> dict[str, Any] | None:
    """Return a part's measured fields."""
    if part is None:
        return None
    values = {each.name: getattr(part, each.name) for each in fields(part)}
    return {name: value for name, value in values.items() if value is not None}


def _read_value(name: str, value: Any, path: Path) -> Any:
    part = RunRecord.PARTS.get(name)
    return _read_part(part, name, value, path) if part else value


def _read_part(part: type[_Part], name: str, value: Any, path: Path) -> _Part:
    if not isinstance(value, dict):
        raise UserError(f"{path}: {name} must be a mapping, found {value!r}")
    known = {each.name for each in fields(part)}  # type: ignore[arg-type]  # every part is a dataclass
    if unknown := sorted(set(value) - known):
        logger.warning("%s: unknown keys in %s are ignored: %s", path, name, ", ".join(unknown))
    if part is BestMetric and "name" not in value:
        raise UserError(f"{path}: {name} lacks the metric's name")
    return part(**{key: each for key, each in value.items() if key in known})

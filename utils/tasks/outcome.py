"""The results of a finished run, and the measurements common to all tasks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from utils.results.record import ParamCounts, PeakMemory, RunRecord, Timing
from utils.trainer.processes import describe_batch, gather_memory

if TYPE_CHECKING:
    from transformers import Trainer

    from utils.modeling.sizes import ParameterCounts
    from utils.trainer.progress import MeasuringCallback


@dataclass
class Outcome:
    """All results of a finished run, before they are written."""

    record: RunRecord
    """Metrics, costs and counts."""
    trained: dict[str, Any] | None
    """The Trainer's training metrics, under its own names; None if nothing was trained."""
    evaluated: dict[str, dict[str, Any]]
    """The Trainer's evaluation metrics by the split's suffix."""
    task_metrics: tuple[str, ...]
    """The dataset's own metrics."""
    predicted: dict[str, dict[Any, Any]] = field(default_factory=dict)
    """Predictions of test splits for a benchmark server, by file name."""
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows of evaluation splits by the split's name, with `label` and `prediction`."""
    check: dict[str, Any] | None = None
    """Report of the reload check."""
    total_s: float | None = None
    """Seconds since the command started."""

    def complete(self) -> RunRecord:
        """Return the record with the results of the steps after training."""
        time = replace(self.record.time, total_s=self.total_s)
        return replace(self.record, reload_check=self.check or {}, time=time)


def fill_costs(record: RunRecord, trainer: Trainer, counts: ParameterCounts, measuring: MeasuringCallback) -> RunRecord:
    """Add the run's costs to a record: parameters, memory, time, and the batch sizes.

    `extra` also gets the step at which the last session began and the adapter's own measurements.
    """
    resumed = {"resumed_from_step": measuring.resumed_from_step} if measuring.resumed_from_step else {}
    return replace(
        record,
        params=ParamCounts(**asdict(counts)),
        memory=PeakMemory(**gather_memory(measuring.read_memory())),
        time=measure_time(trainer, measuring),
        extra={**record.extra, "batch": describe_batch(trainer), **resumed, **measuring.adapter_facts},
    )


def session_metrics(trainer: Trainer) -> dict[str, Any] | None:
    """Return the Trainer's training metrics as far as they hold for a resumed run."""
    trained = training_metrics(trainer)
    if trained is not None and not trainer.resume.knows_all_sessions:
        trained.pop("train_loss", None)  # covers this session's steps only
    return trained


def training_metrics(trainer: Trainer) -> dict[str, Any] | None:
    """Return the Trainer's training metrics: train_runtime, train_loss, ...; None if nothing was trained."""
    entry = next((log for log in reversed(trainer.state.log_history) if "train_runtime" in log), None)
    if entry is None:
        return None
    rows = len(trainer.train_dataset)
    return {**{key: value for key, value in entry.items() if key != "step"}, "train_samples": rows}


def best_step(trainer: Trainer) -> int | None:
    """Return the step whose weights were kept; None if nothing was trained."""
    state = trainer.state
    if trainer.args.load_best_model_at_end and state.best_global_step is not None:
        return int(state.best_global_step)
    return int(state.global_step) or None


def last_metrics(trainer: Trainer, kept_step: int | None = None) -> dict[str, float | None]:
    """Return the last evaluation during training if another step's weights were kept (None: the best step's)."""
    logs = [log for log in trainer.state.log_history if "eval_loss" in log]
    if not logs or logs[-1]["step"] == (kept_step or best_step(trainer)):
        return {}
    skipped = ("_runtime", "_per_second", "_time")
    return {
        key.removeprefix("eval_"): value
        for key, value in logs[-1].items()
        if key.startswith("eval_") and not key.endswith(skipped)
    }


def measure_time(trainer: Trainer, measuring: MeasuringCallback) -> Timing:
    """Return seconds and rates of training, over all sessions if they are known."""
    trained = training_metrics(trainer)
    if trained is None:
        return Timing()
    seconds, every = float(trained["train_runtime"]), trainer.resume.knows_all_sessions
    tokens = trainer.state.num_input_tokens_seen if every else measuring.count_tokens(trainer.state)
    return Timing(
        train_runtime_s=seconds,
        time_to_first_step_s=measuring.time_to_first_step_s,
        samples_per_s=trained.get("train_samples_per_second"),
        tokens_per_s=tokens / seconds if seconds else None,
    )

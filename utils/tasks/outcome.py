"""Puts what was measured in a classification run into its record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from utils.data.classification import ClassificationData
from utils.results.record import BestMetric, DataCounts, ParamCounts, PeakMemory, RunRecord, Timing
from utils.tasks.classification.building import best_metric_name
from utils.trainer.processes import describe_batch, gather_memory

if TYPE_CHECKING:
    from transformers import Trainer

    from utils.modeling.sizes import ParameterCounts
    from utils.tasks.classification.scoring import SplitScore
    from utils.tasks.classification.trainer import ClassificationTrainer
    from utils.trainer.callbacks.measuring import MeasuringCallback


@dataclass
class Outcome:
    """All that a finished run has to say, before it is written."""

    record: RunRecord
    """Metrics, costs and counts."""
    trained: dict[str, Any] | None
    """What the Trainer said of training, under its own names; None when nothing was trained."""
    evaluated: dict[str, dict[str, Any]]
    """What it said of each evaluation split, by the split's suffix."""
    task_metrics: tuple[str, ...]
    """The set's own metrics."""
    predicted: dict[str, dict[Any, Any]] = field(default_factory=dict)
    """Predictions of test splits that a benchmark's server scores, by the file's name."""
    check: dict[str, Any] | None = None
    """What the reload check found."""
    total_s: float | None = None
    """Seconds from the command's start."""

    def complete(self) -> RunRecord:
        """Give the record with what came after training."""
        time = replace(self.record.time, total_s=self.total_s)
        return replace(self.record, reload_check=self.check or {}, time=time)


def collect_outcome(
    record: RunRecord,
    trainer: ClassificationTrainer,
    data: ClassificationData,
    scores: dict[str, SplitScore],
    counts: ParameterCounts,
    measuring: MeasuringCallback,
) -> Outcome:
    """Collect what a run gave that reached its end.

    Args:
        record: With the run's names, as it was started.
        trainer: After training.
        data: The prepared set.
        scores: By the evaluation split's suffix.
        counts: Of the model as it was trained.
        measuring: Holds peak memory and the time to the first step.
    """
    main = scores.get("")
    name = best_metric_name(trainer.args.to_dict(), data)
    metrics: dict[str, float | None] = {}
    for suffix, score in scores.items():
        metrics |= {f"{key}{suffix}": value for key, value in score.metrics.items()}
    filled = replace(
        record,
        status="success",
        metrics=metrics,
        headline=name if main else None,
        best_metric=BestMetric(name, main.metrics.get(name), best_step(trainer)) if main else None,
        metrics_last=last_metrics(trainer),
        interval={key: list(pair) for key, pair in main.interval.items()} if main else {},
        baseline=dict(main.baseline) if main else {},
        params=ParamCounts(**asdict(counts)),
        memory=PeakMemory(**gather_memory(measuring.read_memory())),
        time=measure_time(trainer, measuring),
        data=_data_counts(data),
        extra={
            "splits": {key: report.to_dict() for key, report in data.reports.items()},
            "batch": describe_batch(trainer),
            **_facts(data, measuring),
        },
        warnings=[*record.warnings, *_partial(data)],
    )
    evaluated = {suffix: score.hf for suffix, score in scores.items()}
    return Outcome(filled, session_metrics(trainer), evaluated, data.spec.metrics)


def session_metrics(trainer: Trainer) -> dict[str, Any] | None:
    """Give what the Trainer said of training, as far as it holds for a resumed run."""
    trained = training_metrics(trainer)
    if trained is not None and not trainer.knows_all_sessions:
        trained.pop("train_loss", None)  # it would be of this session's steps alone
    return trained


def training_metrics(trainer: Trainer) -> dict[str, Any] | None:
    """Give what the Trainer said of training: train_runtime, train_loss, ...; None when nothing was trained."""
    entry = next((log for log in reversed(trainer.state.log_history) if "train_runtime" in log), None)
    if entry is None:
        return None
    rows = len(trainer.train_dataset)
    return {**{key: value for key, value in entry.items() if key != "step"}, "train_samples": rows}


def best_step(trainer: Trainer) -> int | None:
    """Give the step whose weights were kept; None when nothing was trained."""
    state = trainer.state
    if trainer.args.load_best_model_at_end and state.best_global_step is not None:
        return int(state.best_global_step)
    return int(state.global_step) or None


def last_metrics(trainer: Trainer, kept_step: int | None = None) -> dict[str, float | None]:
    """Give the last evaluation during training, where another step's weights were kept.

    Args:
        trainer: After training.
        kept_step: Whose weights were kept; None: the one that the trainer chose.
    """
    logs = [log for log in trainer.state.log_history if "eval_loss" in log]
    if not logs or logs[-1]["step"] == (kept_step or best_step(trainer)):
        return {}
    skipped = ("_runtime", "_per_second", "_time")
    return {
        key.removeprefix("eval_"): value
        for key, value in logs[-1].items()
        if key.startswith("eval_") and not key.endswith(skipped)
    }


def _facts(data: ClassificationData, measuring: MeasuringCallback) -> dict[str, Any]:
    """Mark a partial score, and say where the last session began."""
    facts: dict[str, Any] = {"dataset": {"path": data.spec.path, "subset": data.spec.subset}}
    if _partial(data):
        facts["partial"] = True
    if measuring.resumed_from_step:
        facts["resumed_from_step"] = measuring.resumed_from_step
    return facts | measuring.adapter_facts


def _partial(data: ClassificationData) -> list[str]:
    """Say which scores were not measured on all rows of a split."""
    return [
        f"partial score: {report.rows} of {report.rows + report.left_out_rows} rows of {name}"
        for name, report in data.reports.items()
        if name.startswith("eval") and report.left_out_rows
    ]


def measure_time(trainer: Trainer, measuring: MeasuringCallback) -> Timing:
    """Give seconds and rates of training, all sessions together where they are known."""
    trained = training_metrics(trainer)
    if trained is None:
        return Timing()
    seconds, every = float(trained["train_runtime"]), trainer.knows_all_sessions
    tokens = trainer.state.num_input_tokens_seen if every else measuring.count_tokens(trainer.state)
    return Timing(
        train_runtime_s=seconds,
        time_to_first_step_s=measuring.time_to_first_step_s,
        samples_per_s=trained.get("train_samples_per_second"),
        tokens_per_s=tokens / seconds if seconds else None,
    )


def _data_counts(data: ClassificationData) -> DataCounts:
    train, main = data.reports.get("train"), data.reports.get("eval")
    return DataCounts(
        train_rows=train.rows if train else None,
        eval_rows=main.rows if main else None,
        truncated_rows=sum(report.truncated_rows for report in data.reports.values()),
        shared_rows=main.shared_with_train if main and train else None,
        fingerprint=data.fingerprint,
    )

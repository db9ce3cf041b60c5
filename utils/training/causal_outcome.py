"""Puts what was measured in a supervised fine-tuning run into its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from utils.results.record import BestMetric, DataCounts, ParamCounts, PeakMemory, RunRecord, Timing
from utils.training.outcome import Outcome, best_step, last_metrics, measure_time, session_metrics

if TYPE_CHECKING:
    from utils.evaluation.score import SetScore
    from utils.modeling.parameters import ParameterCounts
    from utils.training.callbacks.measuring import MeasuringCallback
    from utils.training.causal_task import CausalData
    from utils.training.causal_trainer import CausalTrainer

_LOSSES = ("loss", "perplexity", "token_accuracy")


@dataclass(frozen=True)
class CausalScores:
    """What scoring a language model gave."""

    losses: Mapping[str, Any]
    """Of the validation rows, under the Trainer's names; empty where there are none."""
    written: Mapping[str, SetScore]
    """Of generated answers, by set."""


def collect_causal_outcome(
    record: RunRecord,
    trainer: CausalTrainer,
    data: CausalData,
    scores: CausalScores,
    counts: ParameterCounts,
    measuring: MeasuringCallback,
) -> Outcome:
    """Collect what a run gave that reached its end.

    Args:
        record: With the run's names, as it was started.
        trainer: After training.
        data: The prepared rows.
        scores: Of the weights that were kept; the first set's headline is the run's metric.
        counts: Of the model as it was trained.
        measuring: Holds peak memory and the time to the first step.
    """
    losses, written = scores.losses, scores.written
    metrics = {name: losses.get(f"eval_{name}") for name in _LOSSES if f"eval_{name}" in losses}
    main = next(iter(written.values()), None)
    filled = replace(
        record,
        status="success",
        metrics={**metrics, **(main.metrics if main else {})},
        best_metric=_best(trainer, data, metrics, main),
        metrics_last=last_metrics(trainer),
        interval={name: list(pair) for name, pair in main.interval.items()} if main else {},
        evaluation={label: _describe_score(score) for label, score in written.items()},
        params=ParamCounts(**asdict(counts)),
        memory=PeakMemory(**measuring.read_memory()),
        time=_measure_time(trainer, data, measuring),
        data=_data_counts(data),
        extra=_facts(data, written, measuring),
        warnings=[*record.warnings, *_partial(data, written)],
    )
    hf = {key: value for key, value in losses.items() if key != "epoch"}
    for label, score in written.items():
        hf |= {f"eval_{label}_{name}": value for name, value in score.metrics.items()}
    return Outcome(filled, session_metrics(trainer, measuring), {"": hf} if hf else {}, ())


def _best(
    trainer: CausalTrainer, data: CausalData, metrics: Mapping[str, Any], main: SetScore | None
) -> BestMetric | None:
    if main is not None and data.sets:
        name = data.sets[0].metrics[0]
        return BestMetric(name, main.metrics[name], best_step(trainer))
    return BestMetric("loss", metrics["loss"], best_step(trainer)) if "loss" in metrics else None


def _measure_time(trainer: CausalTrainer, data: CausalData, measuring: MeasuringCallback) -> Timing:
    """Give times and rates; a packed row is not a sample: those in it are counted."""
    time = measure_time(trainer, measuring)
    if time.samples_per_s is None or not data.num_train_rows:
        return time
    return replace(time, samples_per_s=time.samples_per_s * len(data.instructions.train) / data.num_train_rows)


def _data_counts(data: CausalData) -> DataCounts:
    reports = data.reports
    train, validation = reports["train"], reports.get("validation")
    every = list(reports.values())
    return DataCounts(
        train_rows=train.rows,
        eval_rows=validation.rows if validation else None,
        truncated_rows=sum(each.prompts_cut + each.answers_cut + each.conversations_cut for each in every),
        dropped_rows=sum(each.bad_rows + each.empty_rows + each.too_long_rows for each in every),
        shared_rows=validation.shared_with_train if validation else None,
        fingerprint=data.fingerprint,
    )


def _describe_score(score: SetScore) -> dict[str, Any]:
    """Lay a set's score flat: its metrics, and under which conditions they were measured."""
    kept = ("num_scored", "n", "num_total", "partial", "protocol", "shots", "prompt_hash", "fingerprint",
            "generation", "interval", "num_unfinished", "num_cut", "seconds")  # fmt: skip
    whole = score.to_dict()
    return {**score.metrics, **{name: whole[name] for name in kept}}


def _facts(data: CausalData, written: Mapping[str, SetScore], measuring: MeasuringCallback) -> dict[str, Any]:
    """Describe the data, mark a partial score, and costs that are of the last session only."""
    spec = data.instructions.spec
    facts: dict[str, Any] = {
        "splits": {name: report.to_dict() for name, report in data.reports.items()},
        "dataset": {"path": spec.path, "subset": spec.subset},
    }
    if _partial(data, written):
        facts["partial"] = True
    if measuring.resumed_from_step:
        facts["resumed_from_step"] = measuring.resumed_from_step
    return facts | measuring.adapter_facts


def _partial(data: CausalData, written: Mapping[str, SetScore]) -> list[str]:
    """Say which results were not measured on all rows that there are."""
    validation = data.reports.get("validation")
    left_out = validation.left_out_rows if validation else 0
    losses = (
        [f"partial loss: {validation.rows} of {validation.rows + left_out} rows"] if validation and left_out else []
    )
    return losses + [
        f"partial score: {score.n} of {score.num_total} rows of {label}"
        for label, score in written.items()
        if score.partial
    ]

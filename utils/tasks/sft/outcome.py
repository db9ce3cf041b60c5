"""Complete the record of a supervised fine-tuning run with its measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from utils.evaluation.describing import COMBINED, name_score
from utils.evaluation.history import History
from utils.results.record import BestMetric, DataCounts, RunRecord, Timing
from utils.tasks.outcome import Outcome, fill_costs, last_metrics, session_metrics

if TYPE_CHECKING:
    from utils.evaluation.score import SetScore
    from utils.evaluation.sets import EvaluationSet
    from utils.modeling.sizes import ParameterCounts
    from utils.tasks.sft.data import CausalData
    from utils.tasks.sft.generating import FinalScores
    from utils.trainer.base import LoraNsTrainer
    from utils.trainer.progress import MeasuringCallback

_LEFT_OUT = frozenset({"label", "metrics", "mean_tokens", "tokens_per_s", "identity"})


@dataclass(frozen=True)
class CausalScores:
    """Scores of a language model."""

    losses: Mapping[str, Any]
    """Losses of the validation rows, under the Trainer's names; empty without rows."""
    final: FinalScores
    """Scores of generated answers."""
    names: Mapping[str, bool]
    """See `Task.LOSSES`."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Intervals of some of the losses."""


def collect_causal_outcome(
    record: RunRecord,
    trainer: LoraNsTrainer,
    data: CausalData,
    scores: CausalScores,
    counts: ParameterCounts,
    measuring: MeasuringCallback,
) -> Outcome:
    """Complete the record of a finished run with its measurements.

    The first set's headline is the run's metric.
    """
    losses, final = scores.losses, scores.final
    written = final.scores
    main = written.get(data.sets[0].label) if data.sets else None
    metrics = {name: losses[f"eval_{name}"] for name in scores.names if f"eval_{name}" in losses}
    metrics |= main.metrics if main else {}
    filled = fill_costs(record, trainer, counts, measuring)
    filled = replace(
        filled,
        status="failed" if (unscored := _find_unscored(final)) else "success",
        metrics=metrics,
        headline=(headline := _name_headline(data, metrics, scores)),
        best_metric=_find_best(trainer, metrics, scores, headline),
        metrics_last=_last_metrics(trainer, data, final),
        interval={name: list(pair) for name, pair in {**scores.intervals, **(main.interval if main else {})}.items()},
        evaluation=describe_evaluation(data.sets, final),
        time=_count_documents(filled.time, data),
        data=_data_counts(data),
        extra={**filled.extra, **_facts(data, written), **unscored},
        warnings=[*record.warnings, *_partial(data, written), *_failed(final)],
    )
    hf = {key: value for key, value in losses.items() if key != "epoch"}
    for label, score in written.items():
        hf |= {f"eval_{name_score(label, name)}": value for name, value in score.metrics.items()}
    return Outcome(filled, session_metrics(trainer), {"": hf} if hf else {}, ())


def _name_headline(data: CausalData, metrics: Mapping[str, Any], scores: CausalScores) -> str | None:
    """Return the headline of the run: the first set's metric, or the loss if nothing was generated."""
    if data.sets and (scores.final.scores or scores.final.errors):
        return data.sets[0].metrics[0]
    return next((name for name in scores.names if name in metrics), None)


def _find_best(
    trainer: LoraNsTrainer, metrics: Mapping[str, Any], scores: CausalScores, headline: str | None
) -> BestMetric | None:
    """Return the metric that chose the kept weights, which may differ from the headline."""
    final = scores.final
    step = final.step if final.history else final.step or None  # 0: the untrained weights were the best
    if (chosen := final.chosen_by) is not None:  # a score is of one set, and the run's metrics are of the first
        return BestMetric(chosen, metrics[chosen] if chosen in scores.names else trainer.state.best_metric, step)
    return BestMetric(headline, metrics.get(headline), step) if headline else None


def _last_metrics(trainer: LoraNsTrainer, data: CausalData, final: FinalScores) -> dict[str, float | None]:
    """Return the last step's scores if another step's weights were kept."""
    last_step = trainer.state.global_step
    if final.step == last_step:
        return {}
    entry = final.history.find(last_step) if final.history else None
    scores = entry.list_metrics().get(data.sets[0].label, {}) if entry else {}
    return {**last_metrics(trainer, final.step), **scores}


def _count_documents(time: Timing, data: CausalData) -> Timing:
    """Count samples in documents: a packed row is not a sample."""
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


def _facts(data: CausalData, written: Mapping[str, SetScore]) -> dict[str, Any]:
    """Describe the data, and mark a partial score."""
    spec = data.instructions.spec
    return {
        "splits": {name: report.to_dict() for name, report in data.reports.items()},
        "dataset": {"path": spec.path, "subset": spec.subset},
        **({"partial": True} if _partial(data, written) else {}),
    }


def _partial(data: CausalData, written: Mapping[str, SetScore]) -> list[str]:
    """List the results that do not cover all rows."""
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


def _find_unscored(final: FinalScores) -> dict[str, str]:
    """Return the error of a run in which no set could be scored at any step."""
    entries = final.history.entries if final.history else []
    during = {label: result["error"] for each in entries for label, result in each.results.items() if "error" in result}
    errors = during | final.errors
    if not errors or final.scores or any(each.list_metrics() for each in entries):
        return {}
    reasons = "; ".join(f"{label}: {reason}" for label, reason in errors.items())
    return {"error": f"no set could be scored: {reasons}"}


def _failed(final: FinalScores) -> list[str]:
    """List the sets without a score, and the failed evaluations during training."""
    lines = [f"{label} was not scored: {reason}" for label, reason in final.errors.items()]
    for entry in final.history.entries if final.history else ():
        failed = [label for label, result in entry.results.items() if "error" in result]
        lines += [f"step {entry.step}: {', '.join(failed)} failed, so the combined score is missing"] if failed else []
    return lines


def describe_evaluation(sets: Sequence[EvaluationSet], final: FinalScores) -> dict[str, dict[str, Any]]:
    """Describe what was scored and how, by set; `combined` is the sum over sets, if steps were evaluated.

    Returns:
        By label: the metrics of the kept weights with their conditions, or `error`; `best_combined` and `last` hold the
        step and the metrics of the step with the best combined score and of the last one. A single set may have scored
        better at another step.
    """
    history = final.history
    found: dict[str, dict[str, Any]] = {}
    for each in sets:
        kept = _describe_kept(each.label, final)
        beside = _describe_steps(each.label, history) if history else {}
        if kept or beside:
            found[each.label] = {**kept, **beside}
    if history and history.entries:
        found[COMBINED] = _describe_combined(final, history)
    return found


def _describe_kept(label: str, final: FinalScores) -> dict[str, Any]:
    if label in final.errors:
        return {"error": final.errors[label]}
    return _describe_score(final.scores[label]) if label in final.scores else {}


def _describe_score(score: SetScore) -> dict[str, Any]:
    """Flatten a set's score: its metrics, and the conditions under which they were measured."""
    whole = score.to_dict()
    conditions = {name: value for name, value in whole.items() if name not in _LEFT_OUT and value is not None}
    return {**score.metrics, **conditions}


def _describe_steps(label: str, history: History) -> dict[str, Any]:
    """Return a set's metrics at the best and at the last evaluated step."""
    entries = {"best_combined": history.best, "last": history.entries[-1] if history.entries else None}
    return {
        name: {"step": entry.step, **entry.list_metrics().get(label, {})}
        for name, entry in entries.items()
        if entry is not None
    }


def _describe_combined(final: FinalScores, history: History) -> dict[str, Any]:
    last, best, kept = history.entries[-1], history.best, history.find(final.step)
    facts = {
        "combined_score": kept.combined_score if kept else None,
        "kept_step": final.step,
        "best_score": best.combined_score if best else None,
        "best_step": best.step if best else None,
        "last_score": last.combined_score,
        "last_step": last.step,
        "scorer": history.scorer,
        "leakage": history.leakage or None,
    }
    return {name: value for name, value in facts.items() if value is not None}

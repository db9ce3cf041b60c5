"""Score a trained classifier: every evaluation split with interval and baseline, and the test predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from utils.data.classification import ClassificationData, PreparedSplit
from utils.metrics.bootstrap import bootstrap_interval
from utils.metrics.metric import load_metric, result_key
from utils.metrics.scoring import majority_baseline
from utils.results.record import BestMetric, DataCounts
from utils.tasks.classification.building import best_metric_name, chosen_metric, combined_score
from utils.tasks.outcome import Outcome, best_step, fill_costs, last_metrics, session_metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from utils.modeling.sizes import ParameterCounts
    from utils.results.record import RunRecord
    from utils.tasks.classification.trainer import ClassificationTrainer
    from utils.trainer.progress import MeasuringCallback

_NOT_SCORES = ("eval_runtime", "eval_samples", "eval_samples_per_second", "eval_steps_per_second",
               "eval_model_preparation_time")  # fmt: skip


@dataclass(frozen=True)
class SplitScore:
    """Scores of one evaluation split."""

    metrics: dict[str, float]
    """All metrics and `loss`, by name without prefix."""
    hf: dict[str, float]
    """The Trainer's own keys: eval_accuracy, eval_runtime, ..."""
    interval: dict[str, tuple[float, float]]
    """95 % bootstrap intervals of the dataset's own metrics and of the one that chose the checkpoint."""
    baseline: dict[str, float]
    """The same metrics when always predicting the most frequent training label (for regression, the mean)."""
    num_rows: int
    answers: list[dict[str, Any]]
    """Each row's texts, label and prediction, in the order of the file."""


def score_classification(trainer: ClassificationTrainer, data: ClassificationData) -> dict[str, SplitScore]:
    """Evaluate every evaluation split with the model's current weights.

    Returns:
        Scores by the split's suffix: `""`, and `_mm` for mismatched MNLI.
    """
    return {suffix: _score_split(trainer, data, split) for suffix, split in data.evals.items()}


def predict_tests(trainer: ClassificationTrainer, data: ClassificationData) -> dict[str, dict[Any, Any]]:
    """Predict every test split.

    Returns:
        Predictions by the submission's file name: class ids or values by the rows' own numbers (else by position, from
        0), in the order of the split.
    """
    predicted: dict[str, dict[Any, Any]] = {}
    for submission, split in data.tests:
        values = trainer.predict(split.dataset).predictions.tolist()
        rows = sorted(zip(split.order, split.ids or split.order, values, strict=True))
        predicted[submission.file] = {number: value for _, number, value in rows}
    return predicted


def collect_outcome(
    record: RunRecord,
    trainer: ClassificationTrainer,
    data: ClassificationData,
    scores: dict[str, SplitScore],
    counts: ParameterCounts,
    measuring: MeasuringCallback,
) -> Outcome:
    """Complete the record of a finished run with its measurements; `scores` is keyed by the split's suffix."""
    main = scores.get("")
    name = best_metric_name(trainer.args.to_dict(), data)
    metrics: dict[str, float | None] = {}
    for suffix, score in scores.items():
        metrics |= {f"{key}{suffix}": value for key, value in score.metrics.items()}
    partial = _list_partial(data)
    filled = fill_costs(record, trainer, counts, measuring)
    filled = replace(
        filled,
        status="success",
        metrics=metrics,
        headline=name if main else None,
        best_metric=BestMetric(name, main.metrics.get(name), best_step(trainer)) if main else None,
        metrics_last=last_metrics(trainer),
        interval={key: list(pair) for key, pair in main.interval.items()} if main else {},
        baseline=dict(main.baseline) if main else {},
        data=_count_data(data),
        extra={
            "splits": {key: report.to_dict() for key, report in data.reports.items()},
            "dataset": {"path": data.spec.path, "subset": data.spec.subset},
            **({"partial": True} if partial else {}),
            **filled.extra,
        },
        warnings=[*record.warnings, *partial],
    )
    evaluated = {suffix: score.hf for suffix, score in scores.items()}
    answers = {f"validation{suffix}": score.answers for suffix, score in scores.items()}
    return Outcome(filled, session_metrics(trainer), evaluated, data.spec.metrics, answers=answers)


def _score_split(trainer: ClassificationTrainer, data: ClassificationData, split: PreparedSplit) -> SplitScore:
    output = trainer.predict(split.dataset, metric_key_prefix="eval")
    predictions, references = output.predictions, output.label_ids
    hf = {**output.metrics, "eval_samples": len(split.dataset)}
    metrics = {key.removeprefix("eval_"): value for key, value in hf.items() if key not in _NOT_SCORES}
    names = list(dict.fromkeys([*data.spec.metrics, *chosen_metric(trainer.args.metric_for_best_model)]))
    intervals = {
        result_key(name, data.num_labels): bootstrap_interval(name, predictions, references, data.num_labels)
        for name in names
        if not load_metric(name).fits_any  # 1000 resamples of a script would take minutes
    }
    answers = _list_answers(data, split, predictions.tolist())
    return SplitScore(metrics, hf, intervals, _score_majority(names, data, references), len(split.dataset), answers)


def _list_answers(data: ClassificationData, split: PreparedSplit, predictions: list[Any]) -> list[dict[str, Any]]:
    """List each row's texts, label and prediction: class names, or numbers."""
    names = data.label_names

    def name(value: float) -> str | float:
        return names[int(value)] if names else value

    answers = {
        number: {
            "row": number,
            **{column: row[column] for column in data.spec.text_columns},
            "label": name(row["labels"]),
            "prediction": name(predicted),
        }
        for number, row, predicted in zip(split.order, split.texts.to_list(), predictions, strict=True)
    }
    return [answers[number] for number in sorted(answers)]


def _score_majority(
    names: Sequence[str], data: ClassificationData, references: np.ndarray[Any, Any]
) -> dict[str, float]:
    if data.train is None:
        return {}
    values = majority_baseline(names, data.train.dataset["labels"][:], references, data.num_labels)
    return values | combined_score(values, data)


def _list_partial(data: ClassificationData) -> list[str]:
    """List the scores that do not cover all rows of a split."""
    return [
        f"partial score: {report.rows} of {report.rows + report.left_out_rows} rows of {name}"
        for name, report in data.reports.items()
        if name.startswith("eval") and report.left_out_rows
    ]


def _count_data(data: ClassificationData) -> DataCounts:
    train, main = data.reports.get("train"), data.reports.get("eval")
    return DataCounts(
        train_rows=train.rows if train else None,
        eval_rows=main.rows if main else None,
        truncated_rows=sum(report.truncated_rows for report in data.reports.values()),
        shared_rows=main.shared_with_train if main and train else None,
        fingerprint=data.fingerprint,
    )

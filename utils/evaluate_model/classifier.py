"""Evaluate a classifier: every metric with interval and baseline, and each row's answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.data.classification import ClassificationData, PreparedSplit, prepare_classification
from utils.data.labels import order_as_trained
from utils.evaluate_model.classification_sets import ScoredSplits, check_classes, describe_splits
from utils.evaluate_model.folders import (
    Earlier,
    Entry,
    log_difference,
    log_reused,
    open_result_folder,
    write_facts,
)
from utils.evaluation.files import IDENTITY, PREDICTIONS, RESULTS, write_object, write_records
from utils.evaluation.identity import hash_json, hash_model
from utils.metrics.metric import result_key
from utils.modeling.head import build_head_spec, read_label_order
from utils.results.json_file import write_json
from utils.tasks.classification.building import build_classification_trainer
from utils.tasks.classification.scoring import SplitScore, score_classification
from utils.tasks.classification.trainer import keep_predictions

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.evaluate_model.evaluated_model import EvaluatedModel, Job
    from utils.tasks.classification.trainer import ClassificationTrainer

logger = logging.getLogger(__name__)

_KEPT_ARGUMENTS = ("per_device_eval_batch_size", "use_cpu", "label_smoothing_factor", "metric_for_best_model")


@dataclass(frozen=True)
class _Prepared:
    job: Job
    splits: ScoredSplits
    data: ClassificationData


def evaluate_classifier(evaluated: EvaluatedModel) -> list[Entry]:
    """Score a classifier on the requested splits."""
    tokenizer = evaluated.model.load_tokenizer()
    prepared = [
        _Prepared(job, splits, _prepare(evaluated, job, splits, tokenizer))
        for job in evaluated.jobs
        for splits in describe_splits(job)
    ]
    for each in prepared:
        _announce(each)
    return [entry for each in prepared for entry in _evaluate(evaluated, each, tokenizer)]


def _announce(prepared: _Prepared) -> None:
    """Log what will be scored: the number of rows, the metrics, and the first row."""
    data = prepared.data
    for key, split in data.evals.items():
        first = split.texts.select_columns(list(data.spec.text_columns))[0]
        logger.info("%s: %d rows, scored by %s; the first: %s", prepared.splits.labels[key], len(split.dataset),
                    ", ".join(data.spec.metrics), " | ".join(map(str, first.values())))  # fmt: skip


def _prepare(
    evaluated: EvaluatedModel, job: Job, splits: ScoredSplits, tokenizer: PreTrainedTokenizerBase
) -> ClassificationData:
    """Load and tokenize the rows, with labels in the order of the model's ids."""
    trained, label = evaluated.label_names, next(iter(splits.labels.values()))
    model = job.config.model
    reorder = (lambda names: read_label_order(model, names)) if trained is None else order_as_trained(trained, label)
    data = prepare_classification(splits.spec, splits.section, tokenizer, job.config.seed, reorder)
    if trained is not None:
        check_classes(data, trained, label)
    return data


def _evaluate(evaluated: EvaluatedModel, prepared: _Prepared, tokenizer: PreTrainedTokenizerBase) -> list[Entry]:
    """Score all splits of one source of rows, unless all results exist."""
    started = datetime.now(timezone.utc)
    data, labels = prepared.data, prepared.splits.labels
    model = evaluated.load_model(tokenizer, build_head_spec(data.coder.names))  # the trainer moves it
    weights = hash_model(model)
    folders = {key: evaluated.folder_of(labels[key]) for key in data.evals}
    identities = {key: _build_identity(split, data, weights) for key, split in data.evals.items()}
    earlier = {key: open_result_folder(folders[key], identities[key]) for key in data.evals}
    # The trainer scores all splits of a source; existing results are not overwritten.
    if any(each.same is None for each in earlier.values()):
        trainer = _build_trainer(prepared, model, tokenizer, evaluated.root)
        probabilities = _Probabilities()
        trainer.preprocess_logits_for_metrics = probabilities.keep
        scores = score_classification(trainer, data)
        for key, score in scores.items():
            rows = probabilities.take(score.num_rows)
            if earlier[key].same is None:
                write_object(_make(folders[key]) / IDENTITY, identities[key])
                write_records(folders[key] / PREDICTIONS, _list_answers(data.evals[key], score, data.coder.names, rows))
                write_json(folders[key] / RESULTS, _describe(prepared, key, score, identities[key]))
    return [_finish(evaluated, prepared, key, folders[key], earlier[key], started) for key in data.evals]


def _build_identity(split: PreparedSplit, data: ClassificationData, weights: str) -> dict[str, Any]:
    rows = [split.dataset["input_ids"][:], split.dataset["labels"][:], list(data.coder.names)]
    return {"rows": hash_json(rows), "model": weights}


def _build_trainer(
    prepared: _Prepared, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, root: Path
) -> ClassificationTrainer:
    """Build the trainer that scores as in training, but without autocast: the model runs in its loaded dtype."""
    config = prepared.job.config
    kept = {key: config.arguments[key] for key in _KEPT_ARGUMENTS if key in config.arguments}
    section = config.training.model_copy(update={"output_dir": str(_make(root))})
    config = replace(config, training=section, arguments={**kept, "report_to": "none"})
    return build_classification_trainer(config, model, tokenizer, prepared.data)


class _Probabilities:
    """Keeps the model's outputs that the metrics do not get."""

    def __init__(self) -> None:
        self._rows: list[list[float]] = []

    def keep(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """Keep the probabilities of a batch, or a regression's values; return the predictions."""
        first = logits[0] if isinstance(logits, (tuple, list)) else logits
        values = first.float() if first.shape[-1] == 1 else first.float().softmax(dim=-1)
        self._rows += values.tolist()
        return keep_predictions(logits, labels)

    def take(self, count: int) -> list[list[float]]:
        """Return the first `count` rows not taken yet."""
        taken, self._rows = self._rows[:count], self._rows[count:]
        return taken


def _list_answers(split: PreparedSplit, score: SplitScore, names: Sequence[str], rows: list[list[float]]) -> list[Any]:
    """Return every row with its label, answer and, for classes, probabilities."""
    if not names:
        return score.answers
    shares = {
        row: dict(zip(names, (round(value, 6) for value in values), strict=True))
        for row, values in zip(split.order, rows, strict=True)
    }
    return [{**answer, "probabilities": shares[answer["row"]]} for answer in score.answers]


def _describe(prepared: _Prepared, key: str, score: SplitScore, identity: Mapping[str, Any]) -> dict[str, Any]:
    data, spec = prepared.data, prepared.splits.spec
    report = data.reports[f"eval{key}"]
    split, length = spec.eval_splits[key], prepared.splits.section.max_length
    return {
        "version": 1,
        "label": prepared.splits.labels[key],
        "metrics": score.metrics,
        "interval": {name: list(pair) for name, pair in score.interval.items()},
        "baseline": score.baseline,
        "n": score.num_rows,
        "num_total": score.num_rows + report.left_out_rows,
        "partial": report.left_out_rows > 0,
        "protocol": f"{'classification' if data.coder.names else 'regression'}, {split}, at most {length} tokens",
        "dataset": {"path": spec.path, "subset": spec.subset, "split": split},
        "label_names": list(data.coder.names),
        "split": report.to_dict(),
        "fingerprint": data.fingerprint,
        "commit": data.commit,
        "seconds": score.hf.get("eval_runtime"),
        "identity": identity,
    }


def _finish(
    evaluated: EvaluatedModel, prepared: _Prepared, key: str, folder: Path, earlier: Earlier, started: datetime
) -> Entry:
    result = write_facts(folder, evaluated, earlier, started)
    data, reused = prepared.data, earlier.same is not None
    own = [result_key(name, data.num_labels) for name in data.spec.metrics]
    shown = tuple(dict.fromkeys(name for name in (*own, "combined_score", "accuracy") if name in result["metrics"]))
    if reused:
        log_reused(folder)
    suffix = prepared.splits.suffixes.get(key)
    difference = None if reused else _compare(evaluated, result, shown[0], suffix, earlier)
    return Entry(result["label"], folder, result, shown, reused, difference)


def _compare(
    evaluated: EvaluatedModel, result: Mapping[str, Any], headline: str, suffix: str | None, earlier: Earlier
) -> float | None:
    """Compare a score with the run's own of the same split, else with the one that was set aside."""
    record = evaluated.record
    if record is not None and suffix is not None and f"{headline}{suffix}" in record.metrics:
        whose, value = "the run's own record", record.metrics[f"{headline}{suffix}"]
        rows = record.extra.get("splits", {}).get(f"eval{suffix}", {})
    elif earlier.other is not None:
        whose, value = "the earlier result", earlier.other["metrics"].get(headline)
        rows = earlier.other["split"]
    else:
        return None
    here = result["split"]
    facts = (each for each in ("rows", "label_counts", "token_lengths") if rows.get(each) != here[each])
    other = next(facts, None)
    reason = other and f"the {other.replace('_', ' ')} differ: {rows.get(other)} there, {here[other]} here"
    return log_difference(result, headline, value, whose, reason)


def _make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder

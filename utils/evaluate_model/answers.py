"""Score existing answers without a model: the metrics and the result."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from utils.config.sections.evaluation import EvaluationSection, explain_metrics, label_of
from utils.config.yaml_text import read_overrides
from utils.core.errors import DataError, UserError
from utils.evaluate_model.answered_rows import AnsweredRow, read_answered
from utils.evaluate_model.folders import Entry
from utils.evaluation.files import PREDICTIONS, RESULTS, write_object, write_records
from utils.evaluation.references import report_undefined, resolve_references
from utils.evaluation.score import summarize, summarize_groups
from utils.metrics.metric import Array, Metric, load_metric
from utils.metrics.pass_at_k import allow_code_execution

logger = logging.getLogger(__name__)

_JUDGES = (
    ("evaluation", "allow_code_execution"), ("evaluation", "longbench"), ("evaluation", "truthfulqa"),
)  # fmt: skip


def _read_judges(words: Sequence[str]) -> EvaluationSection:
    """Read the `key=value` arguments that define how answers are scored.

    Raises:
        UserError: One of them sets something else.
    """
    document = read_overrides(words)
    if stray := [".".join(path) for path, _ in document.leaves() if path[:2] not in _JUDGES]:
        known = ", ".join(".".join(path) for path in _JUDGES)
        raise UserError(f"{stray[0]}: has no effect on existing answers; they take {known}")
    try:
        return EvaluationSection.model_validate(document.get(("evaluation",), {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"evaluation.{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def score_answers(arguments: argparse.Namespace) -> Entry:
    """Score a file of answers by each metric, with intervals and by group; write the rows if a folder is named.

    Raises:
        DataError: A row lacks a column, or has a reference that a metric cannot use; its place is named.
        UserError: The options do not say what to score.
    """
    import numpy as np

    judges = _read_judges(arguments.overrides)
    if wrong := explain_metrics(arguments.metrics):
        raise UserError(f"--metric: {wrong}")
    if not arguments.metrics and not arguments.sets:
        raise UserError("--answers: name at least one --metric, or a --set that has its own")
    answered, protocol, own = read_answered(arguments)
    names = tuple(arguments.metrics) or own
    answered, scorer = _resolve(answered, names, judges)
    metrics = [load_metric(name) for name in names]
    for metric in metrics:
        _require_kind(metric, answered)
    columns = {metric.name: _score(metric, answered) for metric in metrics if metric.score_rows is not None}
    summary = summarize(columns)
    of_all = {metric.name: _score_all(metric, answered) for metric in metrics if metric.score_rows is None}
    every = {**summary["metrics"], **of_all}
    for name, column in columns.items():
        report_undefined(name, int(np.isnan(column).sum()), len(answered), arguments.answers)
    summary["metrics"] = {metric.name: every[metric.name] for metric in metrics if metric.name in every}
    result: dict[str, Any] = {
        "label": label_of(arguments.answers),
        **summary,
        "n": len(answered),
        "num_total": len(answered),
        "partial": False,
        "num_answers": sum(len(each.texts) for each in answered),
        "scorer": scorer,
        "protocol": protocol,
        "groups": summarize_groups(columns, [each.groups for each in answered]),
    }
    folder = Path(arguments.output_dir).expanduser() if arguments.output_dir else Path(arguments.answers)
    if arguments.output_dir:
        folder.mkdir(parents=True, exist_ok=True)
        write_records(folder / PREDICTIONS, _list_records(answered, columns))
        write_object(folder / RESULTS, {"version": 1, **result})
    return Entry(result["label"], folder, result, tuple(result["metrics"]), reused=False)


def _resolve(
    answered: list[AnsweredRow], names: Sequence[str], judges: EvaluationSection
) -> tuple[list[AnsweredRow], str | None]:
    """Apply the settings that define how answers are scored, and allow programs to run if they say so."""
    if judges.allow_code_execution:
        allow_code_execution()
    flat, scorer = resolve_references(names, [each for row in answered for each in row.references], judges)
    rest = iter(flat)
    return [replace(row, references=tuple(next(rest) for _ in row.references)) for row in answered], scorer


def _require_kind(metric: Metric, answered: Sequence[AnsweredRow]) -> None:
    """Check that a metric can use each row's references, and that its requirements are available."""
    metric.prepare()
    for row in answered:
        if len(row.texts) < metric.num_answers:
            raise DataError(f"{row.place}: {metric.name} needs at least {metric.num_answers} answers; the row has "
                            f"{len(row.texts)}")  # fmt: skip
        if stray := [each for each in row.references if not metric.takes(each)]:
            keys = ", ".join(metric.reference_keys)
            needs = f"an object with {keys}" if keys else "a text"
            raise DataError(f"{row.place}: {metric.name} needs {needs} as reference; got {str(stray[0])[:60]!r}")


def _score(metric: Metric, answered: Sequence[AnsweredRow]) -> Array:
    """Score each row, (n,): by the nearest of its references, and as the metric combines several answers."""
    import numpy as np

    pairs = [(text, each) for row in answered for text in row.texts for each in row.references]
    assert metric.score_rows is not None, f"got the metric {metric.name} of {metric.kind}"
    scores = metric.score_rows([text for text, _ in pairs], [reference for _, reference in pairs])
    found, start = [], 0
    for row in answered:
        size = len(row.texts) * len(row.references)
        of_row = scores[start : start + size].reshape(len(row.texts), -1)
        start += size
        nearest = np.fmax.reduce if metric.greater_is_better else np.fmin.reduce
        found.append(metric.join_answers(nearest(of_row, axis=1)))
    return np.array(found, dtype=np.float64)


def _score_all(metric: Metric, answered: Sequence[AnsweredRow]) -> float:
    """Score by a metric that needs all rows at once: each answer with its row's only reference, or all of them."""
    texts = [text for row in answered for text in row.texts]
    right: list[Any] = [list(row.references) for row in answered for _ in row.texts]
    return float(metric.score(texts, [each[0] for each in right] if all(len(each) == 1 for each in right) else right))


def _list_records(answered: Sequence[AnsweredRow], columns: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
    for row, each in enumerate(answered):
        scores = {name: None if (value := float(column[row])) != value else value for name, column in columns.items()}
        groups = {"groups": each.groups} if each.groups else {}
        prediction = each.texts[0] if len(each.texts) == 1 else list(each.texts)
        yield {"row": row, "id": each.place, **groups, "prediction": prediction, "references": list(each.references),
               "scores": scores}  # fmt: skip

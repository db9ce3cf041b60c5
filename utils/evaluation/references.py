"""Check that references suit the metrics, and that metrics are allowed and available."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from utils.config.sections.evaluation import EvaluationSection
from utils.core.errors import ConfigError, DataError, Problem
from utils.metrics.longbench_score import CODE_SIMILARITIES, is_code
from utils.metrics.metric import Metric, Reference, load_metric
from utils.metrics.pass_at_k import refuse_code_execution
from utils.metrics.truthfulqa import REFERENCE_KEYS, load_scorer

logger = logging.getLogger(__name__)


def resolve_references(
    metrics: Sequence[str], references: list[Reference], evaluation: EvaluationSection
) -> tuple[list[Reference], str | None]:
    """Add the scorer's name to the references of metrics with a choice of scorers, and check that it is available.

    Raises:
        ConfigError: It is not.
    """
    if any(map(is_code, references)):
        by = evaluation.longbench.code_similarity
        if by == CODE_SIMILARITIES[0]:  # left out, so that identities of earlier versions stay the same
            return references, by
        return [{**each, "code_similarity": by} if isinstance(each, dict) else each for each in references], by
    if not any(load_metric(name).reference_keys == REFERENCE_KEYS for name in metrics):
        return references, None
    scorer = evaluation.truthfulqa.scorer
    load_scorer(scorer)
    return [{**each, "scorer": scorer} if isinstance(each, dict) else each for each in references], scorer


def check_references(label: str, metrics: tuple[str, ...], references: list[Reference]) -> None:
    """Check before generating that each metric can use the references."""
    for metric in map(load_metric, metrics):
        metric.prepare()
        if not all(map(metric.takes, references)):
            raise DataError(f"{label}: its references are not of the kind that the metric {metric.name} judges by; "
                            "choose other metrics for this set")  # fmt: skip
        if not metric.reference_keys and metric.score_rows is not None:
            report_undefined(metric.name, _count_undefined(metric, references), len(references), label)


def report_undefined(name: str, num_undefined: int, num_rows: int, label: str) -> None:
    """Warn of references without an answer for a metric, which is then the mean over the others.

    Raises:
        DataError: No reference has one.
    """
    if num_rows and num_undefined == num_rows:
        raise DataError(f"{label}: no reference has an answer for the metric {name}; choose other metrics")
    if num_undefined:
        logger.warning("%s: %d of %d references have no answer for %s; it is the mean over the others",
                       label, num_undefined, num_rows, name)  # fmt: skip


def check_metrics(label: str, metrics: Sequence[str], evaluation: EvaluationSection, temperature: float) -> None:
    """Check that metrics that run code may do so, and that there are enough answers for each.

    Raises:
        ConfigError: A metric may not run code, or needs more answers.
    """
    num_answers = evaluation.num_return_sequences
    if num_answers > 1 and not temperature:
        message = f"{num_answers} answers at generation.temperature 0 are all the same; set a temperature, or 1 here"
        raise ConfigError([Problem(message, "evaluation.num_return_sequences")])
    for name in metrics:
        try:
            metric = load_metric(name)
        except KeyError:  # named by a user's own dataset
            raise ConfigError(f"there is no metric {name}, which {label} names") from None
        if metric.num_answers > num_answers:
            message = f"{metric.name} of {label} needs at least {metric.num_answers} answers per prompt"
            raise ConfigError([Problem(message, "evaluation.num_return_sequences")])
        if metric.runs_code and not evaluation.allow_code_execution:
            raise refuse_code_execution(f"{metric.name} of {label}")


def _count_undefined(metric: Metric, references: list[Reference]) -> int:
    import numpy as np

    assert metric.score_rows is not None, f"got the metric {metric.name} of {metric.kind}"
    return int(np.isnan(metric.score_rows([""] * len(references), references)).sum())

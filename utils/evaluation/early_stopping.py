"""Early stopping by what a model writes: decided anew from the history, so that a resumed run decides the same."""

from __future__ import annotations

from collections.abc import Sequence

from utils.config.sections.evaluation import EvaluationSection
from utils.core.errors import ConfigError, Problem
from utils.evaluation.history import COMBINED, History
from utils.evaluation.sets import EvaluationSet
from utils.metrics.metric import load_metric


def count_without_gain(history: History, metric: str, threshold: float) -> int:
    """Count the last evaluations in a row that were no better than the best before them.

    Args:
        history: All evaluations; one whose score could not be measured is passed over.
        metric: `combined` or `<label>.<metric>`.
        threshold: A score is better only when it is so by more than this.
    """
    sign = 1.0 if metric == COMBINED or load_metric(metric.rpartition(".")[2]).greater_is_better else -1.0
    best, count = None, 0
    for entry in history.entries:
        value = entry.read_score(metric)
        if value is None:
            continue
        if best is None or sign * (value - best) > threshold:
            best, count = value, 0
        else:
            count += 1
    return count


def check_early_stopping(evaluation: EvaluationSection, sets: Sequence[EvaluationSet]) -> None:
    """Check, before anything is trained, that the score that decides will be measured.

    Raises:
        ConfigError: There is no such score.
    """
    wanted = evaluation.early_stopping_metric
    if evaluation.early_stopping_patience is None or wanted == COMBINED:
        return
    known = [f"{each.label}.{load_metric(name).name}" for each in sets for name in each.metrics]
    if wanted not in known:
        message = f"no score called {wanted}; use {COMBINED}, or one of {', '.join(known)}"
        raise ConfigError([Problem(message, "evaluation.early_stopping_metric")])

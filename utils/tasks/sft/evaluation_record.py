"""What a record says of generated answers: the kept weights' scores, and the best and the last step beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from utils.evaluation.history import COMBINED, History

if TYPE_CHECKING:
    from utils.evaluation.score import SetScore
    from utils.evaluation.sets import EvaluationSet
    from utils.tasks.sft.generating import FinalScores

_LEFT_OUT = frozenset({"label", "metrics", "mean_tokens", "tokens_per_s", "identity"})


def describe_evaluation(sets: Sequence[EvaluationSet], final: FinalScores) -> dict[str, dict[str, Any]]:
    """Describe by set what was scored and how; under `combined` the sum over all sets, where steps were evaluated.

    Returns:
        By label: the metrics of the kept weights with the conditions, or `error`; `best_combined` and `last` hold the
        step and the metrics of the step with the best combined score and of the last one. At the former a single set
        may have scored less than at another step.
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
    """Lay a set's score flat: its metrics, and under which conditions they were measured."""
    whole = score.to_dict()
    conditions = {name: value for name, value in whole.items() if name not in _LEFT_OUT and value is not None}
    return {**score.metrics, **conditions}


def _describe_steps(label: str, history: History) -> dict[str, Any]:
    """Give a set's metrics at the best and at the last step that was evaluated."""
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

"""Which result of an evaluation chooses the best checkpoint: the loss and its like, or a score of generated answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from utils.config.problems import suggest
from utils.core import registry
from utils.core.errors import ConfigError, Problem
from utils.evaluation.history import COMBINED, name_score
from utils.metrics.metric import load_metric

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig
    from utils.evaluation.sets import EvaluationSet

logger = logging.getLogger(__name__)

LOSSES: Mapping[str, bool] = {"loss": False, "perplexity": False, "token_accuracy": True}
"""What an evaluation of the loss gives, and whether more of it is better."""
_SUM = f"{COMBINED}_score"


@dataclass(frozen=True)
class BestMetric:
    """What chooses the best checkpoint."""

    name: str
    """As it stands in the log, without `eval_`."""
    greater_is_better: bool
    is_generated: bool
    """Whether it is a score of generated answers, which `evaluation.steps` measures."""


def is_loss(chosen: Any) -> bool:
    """Tell whether a value of `training.metric_for_best_model` is given by evaluations of the loss."""
    return str(chosen).removeprefix("eval_") in LOSSES


def name_scores(sets: Mapping[str, Sequence[str]]) -> dict[str, bool]:
    """Name the scores of sets as they stand in the log, each with whether more of it is better.

    Args:
        sets: Metrics by the set's label.
    """
    metrics = [(label, load_metric(name)) for label, names in sets.items() for name in names]
    return {_SUM: True, **{name_score(label, each.name): each.greater_is_better for label, each in metrics}}


def find_score(chosen: str, known: Mapping[str, bool]) -> str | None:
    """Find a score by `combined`, `<label>_<metric>`, or `<label>.<metric>` as it was written once; None: unknown."""
    name = chosen.removeprefix("eval_")
    label, _, metric = name.rpartition(".")
    dotted = name_score(label, registry.normalize(metric)) if label else name
    return next((each for each in (_SUM if name == COMBINED else name, dotted) if each in known), None)


def explain_unknown(chosen: str, known: Mapping[str, bool]) -> str:
    """Say that there is no such result, and which there are."""
    scores = (COMBINED, *(each for each in known if each != _SUM))
    return (
        f"no result called {chosen}{suggest(chosen, (*LOSSES, *scores))}; evaluations of the loss give "
        f"{', '.join(LOSSES)}, those of generated answers {', '.join(scores)}"
    )


def find_best_metric(config: RunConfig, sets: Sequence[EvaluationSet]) -> BestMetric | None:
    """Find what chooses the best checkpoint: what the file names, else the sum of all sets in periodic evaluations."""
    chosen = config.arguments.get("metric_for_best_model") or (COMBINED if config.evaluation.is_periodic else None)
    if chosen is None:
        return None
    rising = config.arguments.get("greater_is_better")
    if is_loss(chosen):
        name = chosen.removeprefix("eval_")
        return BestMetric(name, LOSSES[name] if rising is None else rising, is_generated=False)
    known = name_scores({each.label: each.metrics for each in sets})
    found = find_score(chosen, known)
    return BestMetric(found, known[found] if rising is None else rising, is_generated=True) if found else None


def require_best_metric(config: RunConfig, sets: Sequence[EvaluationSet]) -> None:
    """Check, before anything is trained, that the score that decides will be measured.

    Raises:
        ConfigError: There is no such score.
    """
    chosen = config.arguments.get("metric_for_best_model")
    if chosen is None or is_loss(chosen):
        return
    known = name_scores({each.label: each.metrics for each in sets})
    if find_score(chosen, known) is None:
        raise ConfigError([Problem(explain_unknown(chosen, known), "training.metric_for_best_model")])
    if not sets:
        logger.warning(
            "training.metric_for_best_model: %s has no effect: there is no set whose prompts are answered", chosen
        )

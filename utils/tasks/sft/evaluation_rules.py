"""Rules of the best checkpoint: the loss or the score that chooses it, and the evaluations that it needs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import explain_unservable
from utils.config.error_messages import suggest
from utils.config.sections.dataset import InstructionSection
from utils.config.sections.model import is_local
from utils.core import registry
from utils.core.errors import ConfigError, DataError, Problem
from utils.data.dataset import describe_instructions
from utils.evaluation.describing import COMBINED, DescribedSet, ask_otherwise, describe_sets, name_score
from utils.evaluation.references import check_metrics
from utils.metrics.metric import load_metric
from utils.tasks.task import load_task

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig
    from utils.config.sections.evaluation import EvaluationSection
    from utils.evaluation.sets import EvaluationSet


logger = logging.getLogger(__name__)

_SUM = f"{COMBINED}_score"


@dataclass(frozen=True)
class BestMetric:
    """The metric that chooses the best checkpoint."""

    name: str
    """Its name in the log, without `eval_`."""
    greater_is_better: bool
    is_generated: bool
    """Whether it is a score of generated answers, measured every `evaluation.steps`."""


def list_losses(config: RunConfig) -> Mapping[str, bool]:
    """Map each metric of a loss evaluation to whether greater is better; the first is the headline."""
    losses: Mapping[str, bool] = load_task(config.task).LOSSES
    return losses


def is_loss(config: RunConfig) -> bool:
    """Return whether `training.metric_for_best_model` is a metric of loss evaluations."""
    return str(config.arguments.get("metric_for_best_model")).removeprefix("eval_") in list_losses(config)


def name_scores(sets: Mapping[str, Sequence[str]]) -> dict[str, bool]:
    """Map the log names of scores, from metrics by set label, to whether greater is better."""
    metrics = [(label, load_metric(name)) for label, names in sets.items() for name in names]
    return {_SUM: True, **{name_score(label, each.name): each.greater_is_better for label, each in metrics}}


def find_score(chosen: str, known: Mapping[str, bool]) -> str | None:
    """Find a score by `combined`, `<label>_<metric>`, or `<label>.<metric>` (an older form); None: unknown."""
    name = chosen.removeprefix("eval_")
    label, _, metric = name.rpartition(".")
    dotted = name_score(label, registry.normalize(metric)) if label else name
    return next((each for each in (_SUM if name == COMBINED else name, dotted) if each in known), None)


def explain_unknown(chosen: str, known: Mapping[str, bool], losses: Mapping[str, bool]) -> str:
    """Return the message that there is no such result, with those that there are."""
    scores = (COMBINED, *(each for each in known if each != _SUM))
    return (
        f"no result called {chosen}{suggest(chosen, (*losses, *scores))}; evaluations of the loss give "
        f"{', '.join(losses)}, those of generated answers {', '.join(scores)}"
    )


def find_best_metric(config: RunConfig, sets: Sequence[EvaluationSet]) -> BestMetric | None:
    """Find the metric of the best checkpoint: the file's, else the sum over sets if they are evaluated periodically."""
    chosen = config.arguments.get("metric_for_best_model")
    if chosen is None and config.evaluation.is_periodic and not _schedule_reads_metric(config):
        chosen = COMBINED
    if chosen is None:
        return None
    rising = config.arguments.get("greater_is_better")
    if (name := str(chosen).removeprefix("eval_")) in (losses := list_losses(config)):
        return BestMetric(name, losses[name] if rising is None else rising, is_generated=False)
    known = name_scores({each.label: each.metrics for each in sets})
    found = find_score(chosen, known)
    return BestMetric(found, known[found] if rising is None else rising, is_generated=True) if found else None


def _schedule_reads_metric(config: RunConfig) -> bool:
    """Return whether the learning rate depends on evaluations: transformers reads the same metric for it."""
    return config.arguments.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy")


def require_best_metric(config: RunConfig, sets: Sequence[EvaluationSet]) -> None:
    """Check before training that the score that chooses the best checkpoint will be measured.

    Raises:
        ConfigError: There is no such score.
    """
    chosen = config.arguments.get("metric_for_best_model")
    if chosen is None or is_loss(config):
        return
    known = name_scores({each.label: each.metrics for each in sets})
    if find_score(chosen, known) is None:
        raise ConfigError(
            [Problem(explain_unknown(chosen, known, list_losses(config)), "training.metric_for_best_model")]
        )
    if not sets:
        logger.warning("training.metric_for_best_model: %s has no effect: no set is answered by generating", chosen)


def find_evaluation_mistakes(config: RunConfig, files: bool = True) -> Iterator[tuple[str, str]]:
    """Yield combinations that cannot work, each as a key and a sentence; for `files` see `Task.check`."""
    evaluation, saving = config.evaluation, config.arguments.get("save_strategy", "no")
    if evaluation.steps is not None and saving == "best":
        message = "best compares the loss only, not the scores of evaluation.steps; use steps or epoch"
        yield "training.save_strategy", message
    if evaluation.server is not None and (reason := explain_unservable(config.peft)):
        yield "evaluation.server", f"{reason}; or leave evaluation.server out"
    if COMBINED in [each.resolved_label for each in evaluation.set_sections or ()]:
        yield "evaluation.sets", f"{COMBINED} is the name of the sum of all sets; give the set another label"
    yield from _find_prompt_mistakes(config, evaluation)
    if files:
        yield from _find_retention_mistakes(config, evaluation)
        yield from _find_set_mistakes(config, evaluation)
    chosen = config.arguments.get("metric_for_best_model")
    if chosen is not None and not is_loss(config):
        yield from _find_choice_mistakes(config, evaluation, str(chosen))


def _find_prompt_mistakes(config: RunConfig, evaluation: EvaluationSection) -> Iterator[tuple[str, str]]:
    if evaluation.prompt_template is None:
        return
    try:
        ask_otherwise(config.section(InstructionSection), evaluation.prompt_template)
    except ConfigError as error:
        yield "evaluation.prompt_template", error.problems[0].message


def _find_choice_mistakes(config: RunConfig, evaluation: EvaluationSection, chosen: str) -> Iterator[tuple[str, str]]:
    """Yield what is missing for a score of generated answers to choose the best checkpoint or stop early."""
    key = "training.load_best_model_at_end"
    loads, stops = config.arguments.get("load_best_model_at_end"), config.training.early_stopping_patience
    if loads and not evaluation.is_periodic:
        yield key, "needs evaluations during training; set evaluation.steps, or false here"
    if loads and config.arguments.get("save_strategy", "no") == "no":
        yield key, "needs checkpoints; set training.save_strategy, or false here"
    if stops is not None and evaluation.steps is None:
        yield "training.early_stopping_patience", "needs evaluations during training; set evaluation.steps"
    if _schedule_reads_metric(config):
        scheduler = config.arguments["lr_scheduler_type"]
        message = f"{scheduler} goes by evaluations of the loss, and {chosen} is not one of their results; choose one"
        yield "training.metric_for_best_model", message
    try:
        described = _describe_sets(config, evaluation)
    except (ConfigError, DataError):
        return  # reported for the sets themselves
    known = name_scores({each.label: each.spec.metrics for each in described})
    if find_score(chosen, known) is None:
        yield "training.metric_for_best_model", explain_unknown(chosen, known, list_losses(config))


def _find_set_mistakes(config: RunConfig, evaluation: EvaluationSection) -> Iterator[tuple[str, str]]:
    """Yield unknown sets, subsets that a set does not have, and missing prompts."""
    if evaluation.sets is None or not evaluation.is_used:
        return
    try:
        for each in _describe_sets(config, evaluation):
            check_metrics(each.label, each.spec.metrics, evaluation, config.generation.temperature)
    except ConfigError as error:
        for problem in error.problems:
            yield problem.path or "evaluation.sets", problem.message.removeprefix("evaluation.sets: ")
    except DataError as error:
        yield "evaluation.sets", str(error).removeprefix("evaluation.sets: ")


def _find_retention_mistakes(config: RunConfig, evaluation: EvaluationSection) -> Iterator[tuple[str, str]]:
    """Yield missing texts, and the mistakes that sets of `evaluation.sets` can have."""
    for each in evaluation.retention_sections:
        file = each.text_file or each.path or each.name
        if (each.text_file or is_local(file)) and not Path(file).expanduser().exists():
            yield "evaluation.retention", f"{file}: no such file or folder; paths start at the working directory"
    sets = [each for each in evaluation.retention_sections if each.text_file is None]
    try:
        _describe_sets(config, evaluation.model_copy(update={"sets": sets}))
    except (ConfigError, DataError) as error:
        yield "evaluation.retention", str(error).removeprefix("evaluation.sets: ")


def _describe_sets(config: RunConfig, evaluation: EvaluationSection) -> list[DescribedSet]:
    section: Any = config.dataset  # CAUSAL_LM: of instructions
    return describe_sets(evaluation, describe_instructions(section), section)

"""Rules between `evaluation:` and other sections: what is evaluated during training has to be saved and found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from utils.core.errors import ConfigError, DataError
from utils.data.dataset import load_dataset_plugin
from utils.evaluation.describing import DescribedSet, describe_sets
from utils.evaluation.history import COMBINED
from utils.tasks.sft.best_metric import explain_unknown, find_score, is_loss, name_scores

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig
    from utils.config.sections.evaluation import EvaluationSection


def find_evaluation_mistakes(config: RunConfig, files: bool = True) -> Iterator[tuple[str, str]]:
    """Find combinations that cannot work, each as a key and a sentence.

    Args:
        config: The run.
        files: Look for the files that the sets name; those of a run that was written down may be gone.
    """
    evaluation, saving = config.evaluation, config.arguments.get("save_strategy", "no")
    if evaluation.steps is not None and saving == "best":
        message = "best saves by the loss alone, and not what evaluation.steps evaluates; use steps or epoch"
        yield "training.save_strategy", message
    if COMBINED in [each.shown_label for each in evaluation.set_sections or ()]:
        yield "evaluation.sets", f"{COMBINED} is the name of the sum of all sets; give the set another label"
    if files:
        yield from _find_set_mistakes(config, evaluation)
    chosen = config.arguments.get("metric_for_best_model")
    if chosen is not None and not is_loss(chosen):
        yield from _find_choice_mistakes(config, evaluation, str(chosen))


def _find_choice_mistakes(config: RunConfig, evaluation: EvaluationSection, chosen: str) -> Iterator[tuple[str, str]]:
    """Find what is missing for a score of generated answers to choose the best checkpoint, or to end training."""
    key = "training.load_best_model_at_end"
    loads, stops = config.arguments.get("load_best_model_at_end"), config.training.early_stopping_patience
    if loads and not evaluation.is_periodic:
        yield key, "needs evaluations during training; set evaluation.steps, or false here"
    if loads and config.arguments.get("save_strategy", "no") == "no":
        yield key, "needs checkpoints; set training.save_strategy, or false here"
    if stops is not None and evaluation.steps is None:
        yield "training.early_stopping_patience", "needs evaluations during training; set evaluation.steps"
    if (scheduler := config.arguments.get("lr_scheduler_type")) in ("reduce_lr_on_plateau", "greedy"):
        message = f"{scheduler} goes by evaluations of the loss, and {chosen} is none of their results; choose one"
        yield "training.metric_for_best_model", message
    try:
        described = _describe_sets(config, evaluation)
    except (ConfigError, DataError):
        return  # the sets themselves are wrong, which is said of them
    known = name_scores({each.label: each.spec.metrics for each in described})
    if find_score(chosen, known) is None:
        yield "training.metric_for_best_model", explain_unknown(chosen, known)


def _find_set_mistakes(config: RunConfig, evaluation: EvaluationSection) -> Iterator[tuple[str, str]]:
    """Find sets that nothing is called, subsets that a set does not have, and prompts that are not there."""
    if evaluation.sets is None or not (evaluation.at_end or evaluation.at_start or evaluation.steps):
        return
    try:
        _describe_sets(config, evaluation)
    except (ConfigError, DataError) as error:
        yield "evaluation.sets", str(error).removeprefix("evaluation.sets: ")


def _describe_sets(config: RunConfig, evaluation: EvaluationSection) -> list[DescribedSet]:
    section: Any = config.dataset  # CAUSAL_LM: of instructions
    return describe_sets(evaluation, load_dataset_plugin(section.name).describe_instructions(section), section)

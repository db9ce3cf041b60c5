"""Rules between `evaluation:` and other sections: what is evaluated during training has to be saved and found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from utils.config.problems import suggest
from utils.core.errors import ConfigError, DataError
from utils.data.dataset import load_dataset_plugin
from utils.evaluation.describing import DescribedSet, describe_sets
from utils.metrics.metric import load_metric

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig
    from utils.config.sections.evaluation import EvaluationSection

COMBINED = "combined"


def find_evaluation_mistakes(config: RunConfig, files: bool = True) -> Iterator[tuple[str, str]]:
    """Find combinations that cannot work, each as a key and a sentence.

    Args:
        config: The run.
        files: Look for the files that the sets name; those of a run that was written down may be gone.
    """
    evaluation: EvaluationSection = config.evaluation
    saving = config.arguments.get("save_strategy", "no")
    if evaluation.steps is not None and saving == "best":
        message = "best saves by the loss alone, and not what evaluation.steps evaluates; use steps or epoch"
        yield "training.save_strategy", message
    if COMBINED in [each.shown_label for each in evaluation.set_sections or ()]:
        yield "evaluation.sets", f"{COMBINED} is the name of the sum of all sets; give the set another label"
    if files:
        yield from _find_set_mistakes(config, evaluation)
    if evaluation.load_best_at_end:
        yield from _find_best_mistakes(evaluation, saving, bool(config.arguments.get("load_best_model_at_end")))
    if evaluation.early_stopping_patience is not None:
        yield from _find_stopping_mistakes(config, evaluation)


def find_idle_evaluation(config: RunConfig) -> Iterator[tuple[str, tuple[bool, str]]]:
    """Name keys of the section that have no effect, each with whether and why."""
    evaluation: EvaluationSection = config.evaluation
    for key, default in (("early_stopping_metric", COMBINED), ("early_stopping_threshold", 0)):
        changed = getattr(evaluation, key) != default
        is_idle = changed and evaluation.early_stopping_patience is None
        yield f"evaluation.{key}", (is_idle, "early_stopping_patience is not set")
    if not config.arguments.get("do_train", True):
        yield "evaluation.steps", (evaluation.steps is not None, "training.do_train is false")
        yield "evaluation.at_start", (evaluation.at_start, "training.do_train is false")


def _find_best_mistakes(evaluation: EvaluationSection, saving: str, by_loss: bool) -> Iterator[tuple[str, str]]:
    key = "evaluation.load_best_at_end"
    if evaluation.steps is None and not evaluation.at_start:
        yield key, "needs evaluations during training; set evaluation.steps, or false here"
    if saving == "no":
        yield key, "needs checkpoints; set training.save_strategy, or false here"
    if by_loss:
        yield key, "not together with training.load_best_model_at_end, which keeps another step; keep one of them"


def _find_stopping_mistakes(config: RunConfig, evaluation: EvaluationSection) -> Iterator[tuple[str, str]]:
    if evaluation.steps is None:
        yield "evaluation.early_stopping_patience", "needs evaluations during training; set evaluation.steps"
    wanted = evaluation.early_stopping_metric
    if wanted == COMBINED:
        return
    try:
        described = _describe_sets(config, evaluation)
    except (ConfigError, DataError):
        return  # the sets themselves are wrong, which is said of them
    known = [f"{each.label}.{load_metric(name).name}" for each in described for name in each.spec.metrics]
    if wanted not in known:
        yield "evaluation.early_stopping_metric", f"no score called {wanted}{suggest(wanted, (COMBINED, *known))}"


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

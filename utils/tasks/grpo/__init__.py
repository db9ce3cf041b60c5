"""CAUSAL_LM with a section `grpo:`: group relative policy optimization, rewards being metrics (Shao et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from utils.config.document import Document
from utils.config.error_messages import suggest
from utils.config.section import Section
from utils.config.sections.training import DEFAULT_ROWS
from utils.core.errors import Problem
from utils.metrics.metric import load_metric, metric_names
from utils.tasks import preference, sft

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig
    from utils.data.dataset import InstructionSet
    from utils.tasks.task import TaskRun


class GrpoSection(Section):
    """The `grpo:` section, spelt as TRL spells its keys."""

    rewards: dict[str, float] = {}
    """Metrics of generated texts with their weights, `{em_strict: 1.0}`: an answer's reward is the weighted sum of its
    scores. One of your own is a metric in a folder that `extensions:` names."""
    max_prompt_length: int = Field(512, ge=8)
    """Tokens that a prompt may have; longer ones lose their middle, or what dataset.truncation says."""
    max_completion_length: int = Field(256, ge=1)
    """Tokens that an answer may have."""
    num_generations: int = Field(8, ge=2)
    """Answers to each prompt, which are compared with each other. The rows of an optimizer step
    (per_device_train_batch_size * gradient_accumulation_steps * processes) are answers, a multiple of this."""
    num_iterations: int = Field(1, ge=1)
    """Optimizer steps that are made with the same answers; from the second on, ratios are clipped."""
    temperature: float = Field(1.0, gt=0)
    """Of the answers; their log-probabilities are those at this temperature."""
    top_p: float | None = Field(None, gt=0, le=1)
    """As generation.top_p, of the answers that are trained on."""
    top_k: int | None = Field(None, ge=1)
    """As generation.top_k, of the answers that are trained on."""
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo"] = "dapo"
    """How losses of tokens make one, as TRL names it. dapo: a mean over the tokens of the step; grpo: over those of
    each answer, then over answers; bnpo: over those of a batch; dr_grpo: their sum by max_completion_length."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What rewards, less their group's mean, are divided by: the standard deviation of the group, of the step, or
    nothing."""
    epsilon: float = Field(0.2, ge=0)
    """Ratios are clipped below 1 - epsilon ..."""
    epsilon_high: float | None = Field(None, ge=0)
    """... and above 1 + epsilon_high; null: epsilon."""
    delta: float | None = Field(None, gt=1)
    """Largest ratio of answers worse than their group; null: any."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """A ratio for each token, or one for each answer (GSPO)."""
    sapo_temperature_pos: float = Field(1.0, gt=0)
    """Of sapo, answers better than their group."""
    sapo_temperature_neg: float = Field(1.05, gt=0)
    """Of sapo, the others."""
    mask_truncated_completions: bool = False
    """Learn nothing from answers that did not come to their end."""
    beta: float = Field(0.0, ge=0)
    """Weight of the distance (KL) to the base under the adapter; 0: none is computed."""
    use_bias_correction_kl: bool = True
    """Multiply that distance by the ratios, which makes its gradient unbiased, as TRL does."""
    disable_dropout: bool = True
    """Train without dropout, the adapter's included: answers were drawn without."""
    padding_free: bool | None = None
    """As sft.padding_free."""
    pad_to_multiple_of: int | None = Field(None, ge=1)
    """Pad batches to a multiple of this; null: 8 in half precision."""


class Task(preference.PreferenceTask):
    """See `utils.tasks.task.Task`."""

    SECTION = "grpo"
    OWN_SECTION = GrpoSection
    LENGTH_KEY = "grpo.max_prompt_length"
    LOSSES = {}

    @classmethod
    def describe_rows(cls, config: RunConfig) -> InstructionSet:
        """Take them as the dataset describes them: a prompt, and what its answers are judged by."""
        return sft.Task.describe_rows(config)

    @classmethod
    def headline(cls, config: RunConfig) -> str | None:
        """Name the first metric that the dataset's own section asks for."""
        return sft.Task.headline(config)

    @classmethod
    def check(cls, config: RunConfig, document: Document, files: bool) -> Iterator[Problem]:
        """Check also rewards, groups, and what the reference is."""
        yield from super().check(config, document, files)
        for path, message in _find_mistakes(config):
            yield Problem(message, path, document.place_of(tuple(path.split("."))))

    @classmethod
    def find_unused(cls, config: RunConfig) -> dict[str, tuple[bool, str]]:
        """Give by key whether its value has no effect, and why."""
        section = config.section(GrpoSection)
        idle = section.num_iterations == 1 and section.loss_type != "cispo"
        defaults = GrpoSection.model_fields
        clipping = {
            f"grpo.{key}": (
                idle and getattr(section, key) != defaults[key].default,
                "each step's answers are new (num_iterations: 1): no ratio is clipped",
            )
            for key in ("epsilon", "epsilon_high", "delta")
        }
        others = {f"training.{key}": (config.arguments.get(key, "no") not in ("no", False), "rows have no loss to "
                  "evaluate: evaluation.steps lets the model answer sets")
                  for key in ("eval_strategy", "eval_on_start")}  # fmt: skip
        return {**super().find_unused(config), **clipping, **others}

    @classmethod
    def open(cls, config: RunConfig) -> TaskRun:
        """Open one run."""
        from utils.tasks.grpo.run import GrpoRun

        return GrpoRun(config)


def _find_mistakes(config: RunConfig) -> Iterator[tuple[str, str]]:
    section, known = config.section(GrpoSection), metric_names("generation")
    if not section.rewards:
        yield "grpo.rewards", "names no metric; {em_strict: 1.0}, say"
    for name in section.rewards:
        if name not in known:
            yield "grpo.rewards", f"no metric of generated texts called {name}{suggest(name, known)}"
        elif (metric := load_metric(name)).runs_code or metric.num_answers > 1:
            yield "grpo.rewards", f"{name} cannot be a reward: it runs what was written, or judges several answers"
    rows = count_step_rows(config.arguments)
    if rows % section.num_generations:
        message = f"{section.num_generations} does not divide the {rows} answers of an optimizer step"
        yield "grpo.num_generations", f"{message} (per_device_train_batch_size * gradient_accumulation_steps)"
    if section.beta and config.peft.method == "none":
        yield "grpo.beta", "needs an adapter: the base under it is what the distance is to"
    if getattr(config.peft, "cache", "off") != "off":
        yield "peft.cache", "not with grpo: answers are new in each step, and nothing is read twice"


def count_step_rows(arguments: Mapping[str, Any]) -> int:
    """Count the answers of an optimizer step, over all processes."""
    import os

    at_once = int(arguments.get("per_device_train_batch_size", DEFAULT_ROWS)) * int(os.environ.get("WORLD_SIZE", "1"))
    return at_once * int(arguments.get("gradient_accumulation_steps", 1))

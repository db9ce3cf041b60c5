"""CAUSAL_LM with a section `grpo:`: group relative policy optimization with metrics as rewards (Shao et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from utils.adapters.adapter import explain_unservable
from utils.config.document import Document
from utils.config.error_messages import suggest
from utils.config.sections.model import ModelSection, is_local
from utils.core.errors import Problem
from utils.metrics.metric import load_metric, metric_names
from utils.modeling.source import read_model_config
from utils.tasks import preference
from utils.tasks.grpo.section import GrpoSection
from utils.trainer.launch import count_step_rows

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig
    from utils.tasks.task import TaskRun


class Task(preference.PreferenceTask):
    """See `utils.tasks.task.Task`."""

    SECTION = "grpo"
    OWN_SECTION = GrpoSection
    LENGTH_KEY = "grpo.max_prompt_length"
    LOSSES = {}

    @classmethod
    def check(cls, config: RunConfig, document: Document, files: bool) -> Iterator[Problem]:
        """Also check the rewards, the group size and the reference."""
        yield from super().check(config, document, files)
        for path, message in (*_find_reward_mistakes(config.section(GrpoSection)), *_find_mistakes(config)):
            yield document.problem(path, message)

    @classmethod
    def find_unused(cls, config: RunConfig) -> dict[str, tuple[bool, str]]:
        """Map each key to whether its value has no effect, and the reason."""
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


def _find_reward_mistakes(section: GrpoSection) -> Iterator[tuple[str, str]]:
    known = metric_names("generation")
    if not (section.rewards or section.reward_models):
        yield "grpo.rewards", "names no metric; for example {em_strict: 1.0}"
    for name in section.rewards:
        if name not in known:
            yield "grpo.rewards", f"no metric of generated texts called {name}{suggest(name, known)}"
        elif (metric := load_metric(name)).runs_code or metric.num_answers > 1:
            yield "grpo.rewards", f"{name} cannot be a reward: it runs generated code, or judges several answers"
    for name in section.reward_models:
        made = read_model_config(ModelSection(name_or_path=name))
        if made is None and is_local(name):
            message = f"{name}: holds no model; merge_adapter.py makes one from a reward: run"
            yield "grpo.reward_models", message
        elif made is not None and not str((made.get("architectures") or [""])[0]).endswith("ForSequenceClassification"):
            yield "grpo.reward_models", f"{name}: is not a reward model; its head needs exactly one output"


def _find_mistakes(config: RunConfig) -> Iterator[tuple[str, str]]:
    section, rows = config.section(GrpoSection), count_step_rows(config.arguments)
    if rows % section.num_generations:
        message = f"{section.num_generations} does not divide the {rows} answers of an optimizer step"
        yield "grpo.num_generations", f"{message} (per_device_train_batch_size * gradient_accumulation_steps)"
    if section.beta and config.peft.method == "none":
        yield "grpo.beta", "needs an adapter: the reference is the base without it"
    if section.server is not None and (reason := explain_unservable(config.peft)):
        yield "grpo.server", f"{reason}; or leave grpo.server out"
    if getattr(config.peft, "cache", "off") != "off":
        yield "peft.cache", "not with grpo: answers are new in each step, and nothing is read twice"

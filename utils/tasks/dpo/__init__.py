"""CAUSAL_LM with a section `dpo:`: direct preference optimization on pairs of answers (Rafailov et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from utils.config.document import Document
from utils.core.errors import Problem
from utils.data.preference import as_pairs
from utils.tasks import preference
from utils.tasks.dpo.section import DpoSection

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig
    from utils.data.dataset import InstructionSet
    from utils.tasks.task import TaskRun

_ON_RATIOS = ("nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down")
"""Losses that are defined for reverse_kl only."""


class Task(preference.PreferenceTask):
    """See `utils.tasks.task.Task`."""

    SECTION = "dpo"
    OWN_SECTION = DpoSection
    LENGTH_KEY = "dpo.max_length"
    LOSSES = {
        "rewards/accuracies": True, "loss": False, "rewards/margins": True, "rewards/chosen": True,
        "rewards/rejected": False, "logps/accuracies": True, "logps/chosen": True, "logps/rejected": False,
    }  # fmt: skip

    @classmethod
    def describe_rows(cls, config: RunConfig) -> InstructionSet:
        """Describe the dataset's rows as pairs."""
        return as_pairs(super().describe_rows(config), getattr(config.dataset, "roles", {}))

    @classmethod
    def check(cls, config: RunConfig, document: Document, files: bool) -> Iterator[Problem]:
        """Also check that the settings of the losses fit each other."""
        yield from super().check(config, document, files)
        for key, message in _find_mistakes(config.section(DpoSection)):
            yield document.problem(f"dpo.{key}", message)

    @classmethod
    def open(cls, config: RunConfig) -> TaskRun:
        """Open one run."""
        from utils.tasks.dpo.trainer import DpoRun

        return DpoRun(config)


def _find_mistakes(section: DpoSection) -> Iterator[tuple[str, str]]:
    names = [section.loss_type] if isinstance(section.loss_type, str) else section.loss_type
    if not names or len(set(names)) < len(names):
        yield "loss_type", "names no loss, or one twice"
    if section.loss_weights is not None and len(section.loss_weights) != len(names):
        yield "loss_weights", f"holds {len(section.loss_weights)} weights for {len(names)} losses"
    if "robust" in names and section.label_smoothing >= 0.5:
        yield "label_smoothing", "must be below 0.5 for robust"
    if "exo_pair" in names and section.label_smoothing == 0:
        yield "label_smoothing", "must be above 0 for exo_pair; 1e-3 is usual"
    if section.f_divergence_type != "reverse_kl" and (wrong := [name for name in names if name in _ON_RATIOS]):
        yield "f_divergence_type", f"{section.f_divergence_type} is not defined for {', '.join(wrong)}"

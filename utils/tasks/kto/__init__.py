"""CAUSAL_LM with a section `kto:`: learning from answers labelled good or bad (Ethayarajh et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.data.preference import as_labelled
from utils.tasks import preference
from utils.tasks.kto.section import KtoSection

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig
    from utils.data.dataset import InstructionSet
    from utils.tasks.task import TaskRun


class Task(preference.PreferenceTask):
    """See `utils.tasks.task.Task`."""

    SECTION = "kto"
    OWN_SECTION = KtoSection
    LENGTH_KEY = "kto.max_length"
    LOSSES = {
        "loss": False, "rewards/margins": True, "rewards/chosen": True, "rewards/rejected": False, "kl": False,
    }  # fmt: skip

    @classmethod
    def describe_rows(cls, config: RunConfig) -> InstructionSet:
        """Describe the dataset's rows as labelled answers."""
        return as_labelled(super().describe_rows(config))

    @classmethod
    def open(cls, config: RunConfig) -> TaskRun:
        """Open one run."""
        from utils.tasks.kto.trainer import KtoRun

        return KtoRun(config)

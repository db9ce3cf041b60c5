"""CAUSAL_LM with a section `kto:`: learning from answers that are labelled good or bad (Ethayarajh et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from utils.data.preference import as_labelled
from utils.tasks import preference, sft

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig
    from utils.data.dataset import InstructionSet
    from utils.tasks.task import TaskRun


class KtoSection(preference.PreferenceSection):
    """The `kto:` section."""

    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """kto: measured against how far the model is from the reference, which is estimated on each batch of
    per_device_train_batch_size rows, 4 at least; apo_zero_unpaired: without that."""
    desirable_weight: float = Field(1.0, ge=0)
    """Weight of answers labelled good; where there are fewer of them, more evens that out."""
    undesirable_weight: float = Field(1.0, ge=0)
    """Weight of answers labelled bad."""


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
        """Make the dataset's rows labelled answers."""
        return as_labelled(sft.Task.describe_rows(config))

    @classmethod
    def open(cls, config: RunConfig) -> TaskRun:
        """Open one run."""
        from utils.tasks.kto.trainer import KtoRun

        return KtoRun(config)

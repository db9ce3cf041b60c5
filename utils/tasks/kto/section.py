"""The `kto:` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from utils.tasks.preference import PreferenceSection


class KtoSection(PreferenceSection):
    """The `kto:` section."""

    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """kto: measured against how far the model is from the reference, which is estimated on each batch of
    per_device_train_batch_size rows, 4 at least; apo_zero_unpaired: without that."""
    desirable_weight: float = Field(1.0, ge=0)
    """Weight of answers labelled good; where there are fewer of them, more evens that out."""
    undesirable_weight: float = Field(1.0, ge=0)
    """Weight of answers labelled bad."""

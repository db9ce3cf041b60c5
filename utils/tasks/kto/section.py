"""The `kto:` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from utils.tasks.preference import PreferenceSection


class KtoSection(PreferenceSection):
    """The `kto:` section."""

    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """kto: relative to the KL divergence from the reference, estimated on each batch of per_device_train_batch_size
    rows, at least 4; apo_zero_unpaired: without that term."""
    desirable_weight: float = Field(1.0, ge=0)
    """Weight of answers labelled good; raise it to balance a smaller number of them."""
    undesirable_weight: float = Field(1.0, ge=0)
    """Weight of answers labelled bad; raise it to balance a smaller number of them."""

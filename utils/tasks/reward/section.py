"""The `reward:` section."""

from __future__ import annotations

from pydantic import Field

from utils.config.section import Section


class RewardSection(Section):
    """The `reward:` section, with TRL's key names."""

    max_length: int = Field(1024, ge=8)
    """SEQ_CLS: maximum tokens of a prompt with an answer; longer ones follow dataset.truncation. Both answers of a pair
    keep the same prompt."""
    center_rewards_coefficient: float | None = Field(None, ge=0)
    """Weight of the squared sum of a pair's rewards, which keeps their mean near 0 (Eisenstein et al. 2023); 0.01 is
    usual, null: none."""
    disable_dropout: bool = True
    """Train without dropout, the adapter's included."""
    pad_to_multiple_of: int | None = Field(None, ge=1)
    """Pad batches to a multiple of this; null: 8 in half precision."""

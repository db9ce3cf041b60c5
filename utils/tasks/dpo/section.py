"""The `dpo:` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from utils.tasks.preference import PreferenceSection

LossType = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
]  # fmt: skip


class DpoSection(PreferenceSection):
    """The `dpo:` section."""

    loss_type: LossType | list[LossType] = "sigmoid"
    """The loss, named and defined as in TRL; several are summed by loss_weights. aot and aot_unpaired sort the pairs of
    a batch, and sft is the mean over its tokens, so they depend on per_device_train_batch_size."""
    loss_weights: list[float] | None = None
    """Weights of the losses; null: 1 each."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """robust: the probability that a preference is flipped, below 0.5; exo_pair: its epsilon, above 0; aot: the weight
    of the flipped preference."""
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    """The divergence that keeps the model near the reference (Wang et al. 2023, f-DPO)."""
    f_alpha_divergence_coef: float = 0.5
    """Alpha of alpha_divergence."""
    ld_alpha: float | None = Field(None, ge=0, le=1)
    """Weight of the longer answer's tokens beyond the length of the shorter one (LD-DPO); null: 1."""
    discopop_tau: float = Field(0.05, gt=0)
    """Temperature of discopop."""

    @property
    def losses(self) -> dict[str, float]:
        """Weights by loss."""
        names = [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type
        return dict(zip(names, self.loss_weights or [1.0] * len(names), strict=True))

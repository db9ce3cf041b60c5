"""Train a reward model on pairs of answers: the loss of TRL 1.16's RewardTrainer (Bradley and Terry 1952)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch.nn.functional import logsigmoid

from utils.generation.classification import input_names
from utils.tasks.preference.trainer import RowsTrainer, compare_sides

if TYPE_CHECKING:
    import torch

    from utils.tasks.reward.section import RewardSection

_METRICS = ("rewards/chosen", "rewards/rejected", "accuracy")


class RewardTrainer(RowsTrainer):
    """A trainer whose batches hold all chosen texts, then all rejected ones."""

    TEXTS_PER_ROW = 2
    section: RewardSection

    def compute_rows(self, model: Any, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Compute each pair's loss, both rewards, and whether the chosen one is larger (ties: 1/2)."""
        taken = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        uncached = {"use_cache": False} if "use_cache" in input_names(self.model) else {}
        rewards = model(**taken, **uncached).logits.float().view(2, -1)
        losses = -logsigmoid(rewards[0] - rewards[1] - inputs.get("margin", 0.0))
        if self.section.center_rewards_coefficient:
            losses = losses + self.section.center_rewards_coefficient * rewards.sum(0) ** 2
        rewards = rewards.detach()
        return [losses, *rewards, compare_sides(rewards)]

    def describe(self, num_rows: float, *totals: float) -> dict[str, float]:
        """Turn sums over pairs into means, under TRL's names."""
        chosen, rejected, accuracy = (total / num_rows for total in totals)
        means = dict(zip(_METRICS, (chosen, rejected, accuracy), strict=True))
        return {**means, "margin": chosen - rejected, "mean_reward": (chosen + rejected) / 2}

"""Train on pairs of answers: the losses of DPO and their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from utils.tasks.dpo.losses import Pairs, compute_losses
from utils.tasks.preference.run import PreferenceRun
from utils.tasks.preference.trainer import PreferenceTrainer, compare_sides

if TYPE_CHECKING:
    from utils.tasks.dpo.section import DpoSection


class DpoTrainer(PreferenceTrainer):
    """A preference trainer whose batches hold all chosen texts, then all rejected ones."""

    TEXTS_PER_ROW = 2
    references_per_row = 2
    section: DpoSection

    def reduce(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Sum each text's tokens; with ld_alpha, tokens beyond the other answer's length are weighted by it."""
        if self.section.ld_alpha is None:
            return super().reduce(parts)
        half = len(parts) // 2
        shared = [min(len(parts[row]), len(parts[row + half])) for row in range(half)] * 2
        weight = self.section.ld_alpha
        return torch.stack([part[:n].sum() + weight * part[n:].sum() for part, n in zip(parts, shared, strict=True)])

    def compute_rows(self, model: Any, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Compute each pair's loss, rewards and log-probabilities, and whether the chosen one is larger (ties: 1/2)."""
        parts = self.score(model, inputs)
        half = len(parts) // 2
        logps, reference = self.reduce(parts).view(2, -1), self.score_reference(inputs).view(2, -1)
        pairs = Pairs(logps, reference, inputs["answer_tokens"].view(2, -1), self.section)
        rewards = self.section.beta * pairs.ratios.detach()
        logps = logps.detach()
        losses = compute_losses(pairs, parts[:half])
        return [losses, *rewards, compare_sides(rewards), *logps, compare_sides(logps)]

    def describe(self, num_rows: float, *totals: float) -> dict[str, float]:
        """Turn sums over pairs into means, under TRL's names."""
        means = [total / num_rows for total in totals]
        names = ("rewards/chosen", "rewards/rejected", "rewards/accuracies",
                 "logps/chosen", "logps/rejected", "logps/accuracies")  # fmt: skip
        return {**dict(zip(names, means, strict=True)), "rewards/margins": means[0] - means[1]}


class DpoRun(PreferenceRun):
    """See `utils.tasks.task.TaskRun`."""

    TRAINER = DpoTrainer

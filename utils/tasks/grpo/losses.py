"""The losses of group relative policy optimization, with TRL's names and definitions (TRL 1.16, GRPOTrainer)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from utils.tasks.grpo.section import GrpoSection


@dataclass(frozen=True)
class AnswerBatch:
    """A batch of n answers; tensors over tokens, shape (t,), concatenate those of all answers."""

    logps: torch.Tensor
    """The model's log-probabilities of the tokens, (t,)."""
    old: torch.Tensor
    """Log-probabilities by the model that generated the answers, (t,)."""
    reference: torch.Tensor | None
    """Log-probabilities by the base, (t,); None: no KL divergence from it is computed."""
    counts: torch.Tensor
    """Number of tokens of each answer, (n,)."""
    advantages: torch.Tensor
    """Advantage of each answer, (n,)."""
    kept: torch.Tensor
    """1 for answers that are trained on, else 0; (n,)."""
    step_tokens: torch.Tensor
    """Number of trained tokens in the whole step."""
    step_rows: int
    """Number of answers in the whole step."""

    def expand(self, rows: torch.Tensor) -> torch.Tensor:
        """Repeat each answer's value for its tokens, (t,)."""
        return rows.repeat_interleave(self.counts)

    def sum_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Sum over the tokens of each answer, (n,)."""
        return torch.stack([part.sum() for part in tokens.split(self.counts.tolist())])


def compute_losses(batch: AnswerBatch, section: GrpoSection) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute each answer's loss (the step's loss is their mean), mean KL, and share of clipped tokens; each (n,)."""
    log_ratios, lengths = batch.logps - batch.old, batch.counts.clamp(min=1)
    if section.importance_sampling_level == "sequence":
        log_ratios = batch.expand(batch.sum_tokens(log_ratios) / lengths)
    ratios, advantages = torch.exp(log_ratios), batch.expand(batch.advantages)
    high = 1 + (section.epsilon if section.epsilon_high is None else section.epsilon_high)
    clipped = ((ratios < 1 - section.epsilon) & (advantages < 0)) | ((ratios > high) & (advantages > 0))
    losses = _compute_token_losses(batch.logps, ratios, advantages, section)
    kl = torch.zeros_like(losses)
    if batch.reference is not None:
        gap = batch.reference - batch.logps
        kl = torch.exp(gap) - gap - 1
        if section.use_bias_correction_kl:
            kl = kl * ratios
        losses = losses + section.beta * kl
    rows = _aggregate(batch, losses * batch.expand(batch.kept), section)
    return rows, batch.sum_tokens(kl.detach()) / lengths, batch.sum_tokens(clipped.float()) / lengths


def _compute_token_losses(
    logps: torch.Tensor, ratios: torch.Tensor, advantages: torch.Tensor, section: GrpoSection
) -> torch.Tensor:
    """Compute each token's loss, (t,)."""
    high = section.epsilon if section.epsilon_high is None else section.epsilon_high
    if section.loss_type == "cispo":  # epsilon_high bounds the ratio itself here
        return -ratios.clamp(max=high).detach() * advantages * logps
    if section.loss_type == "sapo":
        temperature = torch.where(advantages > 0, section.sapo_temperature_pos, section.sapo_temperature_neg)
        return -torch.sigmoid(temperature * (ratios - 1)) * 4 / temperature * advantages
    bounded = ratios.clamp(1 - section.epsilon, 1 + high)
    ratios = ratios if section.delta is None else ratios.clamp(max=section.delta)
    return -torch.min(ratios * advantages, bounded * advantages)


def _aggregate(batch: AnswerBatch, losses: torch.Tensor, section: GrpoSection) -> torch.Tensor:
    """Aggregate token losses into one per answer, (n,), whose mean over the step's answers is the step's loss."""
    sums, kind = batch.sum_tokens(losses), section.loss_type
    if kind in ("grpo", "sapo"):
        return sums / batch.counts.clamp(min=1)
    if kind == "luspo":
        return sums
    if kind == "dr_grpo":
        return sums / section.max_completion_length
    if kind == "bnpo":
        return sums * len(sums) / (batch.counts * batch.kept).sum().clamp(min=1)
    return sums * batch.step_rows / batch.step_tokens.clamp(min=1)

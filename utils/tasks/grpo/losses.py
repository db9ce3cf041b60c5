"""The losses of group relative policy optimization, by TRL's names and as TRL 1.16 defines them (GRPOTrainer)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from utils.tasks.grpo.section import GrpoSection


@dataclass(frozen=True)
class Answered:
    """A batch of answers; tensors of tokens, (t,), hold those of all answers one after another."""

    logps: torch.Tensor
    """Log-probabilities of tokens by the model."""
    old: torch.Tensor
    """The same by the model that wrote them."""
    reference: torch.Tensor | None
    """The same by the base; None: no distance to it is computed."""
    counts: torch.Tensor
    """Tokens of each answer, (n,)."""
    advantages: torch.Tensor
    """Of each answer, (n,)."""
    kept: torch.Tensor
    """1 for answers that are learnt from, else 0; (n,)."""
    step_tokens: torch.Tensor
    """Tokens that are learnt from in the whole step."""
    step_rows: int
    """Answers of the whole step."""

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        """Give each token its answer's value."""
        return rows.repeat_interleave(self.counts)

    def add_up(self, tokens: torch.Tensor) -> torch.Tensor:
        """Sum over the tokens of each answer, (n,)."""
        return torch.stack([part.sum() for part in tokens.split(self.counts.tolist())])


def compute_losses(batch: Answered, section: GrpoSection) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute of each answer, (n,): its loss, the mean of which over the step is the step's; mean KL; share clipped."""
    log_ratios, lengths = batch.logps - batch.old, batch.counts.clamp(min=1)
    if section.importance_sampling_level == "sequence":
        log_ratios = batch.spread(batch.add_up(log_ratios) / lengths)
    ratios, advantages = torch.exp(log_ratios), batch.spread(batch.advantages)
    high = 1 + (section.epsilon if section.epsilon_high is None else section.epsilon_high)
    clipped = ((ratios < 1 - section.epsilon) & (advantages < 0)) | ((ratios > high) & (advantages > 0))
    losses = _weigh(batch.logps, ratios, advantages, section)
    kl = torch.zeros_like(losses)
    if batch.reference is not None:
        gap = batch.reference - batch.logps
        kl = torch.exp(gap) - gap - 1
        if section.use_bias_correction_kl:
            kl = kl * ratios
        losses = losses + section.beta * kl
    rows = _join(batch, losses * batch.spread(batch.kept), section)
    return rows, batch.add_up(kl.detach()) / lengths, batch.add_up(clipped.float()) / lengths


def _weigh(logps: torch.Tensor, ratios: torch.Tensor, advantages: torch.Tensor, section: GrpoSection) -> torch.Tensor:
    """Compute each token's loss."""
    high = section.epsilon if section.epsilon_high is None else section.epsilon_high
    if section.loss_type == "cispo":  # here it bounds the ratio itself
        return -ratios.clamp(max=high).detach() * advantages * logps
    if section.loss_type == "sapo":
        warmth = torch.where(advantages > 0, section.sapo_temperature_pos, section.sapo_temperature_neg)
        return -torch.sigmoid(warmth * (ratios - 1)) * 4 / warmth * advantages
    bounded = ratios.clamp(1 - section.epsilon, 1 + high)
    ratios = ratios if section.delta is None else ratios.clamp(max=section.delta)
    return -torch.min(ratios * advantages, bounded * advantages)


def _join(batch: Answered, losses: torch.Tensor, section: GrpoSection) -> torch.Tensor:
    """Make each answer's loss of its tokens', (n,), whose mean over the step's answers is the loss."""
    sums, kind = batch.add_up(losses), section.loss_type
    if kind in ("grpo", "sapo"):
        return sums / batch.counts.clamp(min=1)
    if kind == "luspo":
        return sums
    if kind == "dr_grpo":
        return sums / section.max_completion_length
    if kind == "bnpo":
        return sums * len(sums) / (batch.counts * batch.kept).sum().clamp(min=1)
    return sums * batch.step_rows / batch.step_tokens.clamp(min=1)

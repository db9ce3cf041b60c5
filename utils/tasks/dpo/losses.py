"""The losses of DPO and its variants, with TRL's names and definitions (TRL 1.16, DPOTrainer._compute_loss)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

if TYPE_CHECKING:
    from utils.tasks.dpo.section import DpoSection


@dataclass(frozen=True)
class Pairs:
    """Inputs of the losses; all tensors have shape (2, n): the chosen answers, then the rejected ones."""

    logps: torch.Tensor
    """The model's log-probabilities of the answers."""
    reference: torch.Tensor
    """The reference's log-probabilities of the answers."""
    counts: torch.Tensor
    """Numbers of tokens of the answers."""
    section: DpoSection

    @property
    def ratios(self) -> torch.Tensor:
        """Log ratios of the model's to the reference's probability of each answer."""
        return self.logps - self.reference

    @property
    def scores(self) -> torch.Tensor:
        """The log ratios transformed by the derivative of the f-divergence; unchanged for reverse_kl."""
        ratios, alpha = self.ratios, self.section.f_alpha_divergence_coef
        kind = self.section.f_divergence_type
        if kind == "forward_kl":
            return 1 - torch.exp(-ratios)
        if kind == "js_divergence":
            return math.log(2) + logsigmoid(ratios)
        if kind == "alpha_divergence" and abs(alpha - 1) >= 1e-6:  # at 1 it is the log ratio
            return (torch.exp(((alpha - 1) * ratios.float()).clamp(max=80.0)) - 1) / (alpha - 1)
        return ratios

    @property
    def margin(self) -> torch.Tensor:
        """Score of the chosen answer minus score of the rejected one, shape (n,)."""
        return self.scores[0] - self.scores[1]

    @property
    def mean_margin(self) -> torch.Tensor:
        """The margin of the scores per token, shape (n,)."""
        means = self.scores / self.counts.clamp(min=1)
        return means[0] - means[1]


def compute_losses(pairs: Pairs, chosen: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum the section's losses by weight, shape (n,); `chosen` has the chosen answers' token log-probabilities."""
    total = torch.zeros_like(pairs.logps[0])
    for name, weight in pairs.section.losses.items():
        # sft is the mean over all tokens of the batch, equal for all pairs
        losses = -torch.cat(list(chosen)).mean().expand_as(total) if name == "sft" else _LOSSES[name](pairs)
        total = total + weight * losses
    return total


def _sigmoid(pairs: Pairs) -> torch.Tensor:
    return -logsigmoid(pairs.section.beta * pairs.margin)


def _sigmoid_norm(pairs: Pairs) -> torch.Tensor:
    return -logsigmoid(pairs.section.beta * pairs.mean_margin)


def _hinge(pairs: Pairs) -> torch.Tensor:
    return torch.relu(1 - pairs.section.beta * pairs.margin)


def _ipo(pairs: Pairs) -> torch.Tensor:
    return (pairs.mean_margin - 1 / (2 * pairs.section.beta)) ** 2


def _exo_pair(pairs: Pairs) -> torch.Tensor:
    margin, epsilon = pairs.section.beta * pairs.margin, pairs.section.label_smoothing
    right = torch.sigmoid(margin) * (logsigmoid(margin) - math.log1p(-epsilon))
    return right + torch.sigmoid(-margin) * (logsigmoid(-margin) - math.log(epsilon))


def _nca_pair(pairs: Pairs) -> torch.Tensor:
    chosen, rejected = pairs.section.beta * pairs.ratios
    return -logsigmoid(chosen) - 0.5 * logsigmoid(-chosen) - 0.5 * logsigmoid(-rejected)


def _robust(pairs: Pairs) -> torch.Tensor:
    margin, share = pairs.section.beta * pairs.margin, pairs.section.label_smoothing
    return (share * logsigmoid(-margin) - (1 - share) * logsigmoid(margin)) / (1 - 2 * share)


def _bco_pair(pairs: Pairs) -> torch.Tensor:
    chosen, rejected = pairs.section.beta * pairs.ratios
    return -logsigmoid(chosen) - logsigmoid(-rejected)


def _sppo_hard(pairs: Pairs) -> torch.Tensor:
    half = 0.5 / pairs.section.beta
    return (pairs.ratios[0] - half) ** 2 + (pairs.ratios[1] + half) ** 2


def _aot(pairs: Pairs) -> torch.Tensor:
    own, reference = (torch.sort(each[0] - each[1])[0] for each in (pairs.logps, pairs.reference))
    return _smooth(pairs, own - reference)


def _aot_unpaired(pairs: Pairs) -> torch.Tensor:
    chosen, rejected = torch.sort(pairs.ratios, dim=1)[0]
    return _smooth(pairs, chosen - rejected)


def _smooth(pairs: Pairs, margin: torch.Tensor) -> torch.Tensor:
    share, margin = pairs.section.label_smoothing, pairs.section.beta * margin
    return -(1 - share) * logsigmoid(margin) - share * logsigmoid(-margin)


def _apo_zero(pairs: Pairs) -> torch.Tensor:
    chosen, rejected = torch.sigmoid(pairs.section.beta * pairs.ratios)
    return 1 - chosen + rejected


def _apo_down(pairs: Pairs) -> torch.Tensor:
    chosen, rejected = pairs.section.beta * pairs.ratios
    return torch.sigmoid(chosen) + 1 - torch.sigmoid(chosen - rejected)


def _discopop(pairs: Pairs) -> torch.Tensor:
    margin = pairs.section.beta * pairs.margin
    share = torch.sigmoid(margin / pairs.section.discopop_tau)
    return -logsigmoid(margin) * (1 - share) + torch.exp(-margin) * share


_LOSSES: Mapping[str, Callable[[Pairs], torch.Tensor]] = {
    "sigmoid": _sigmoid, "sigmoid_norm": _sigmoid_norm, "hinge": _hinge, "ipo": _ipo, "exo_pair": _exo_pair,
    "nca_pair": _nca_pair, "robust": _robust, "bco_pair": _bco_pair, "sppo_hard": _sppo_hard, "aot": _aot,
    "aot_unpaired": _aot_unpaired, "apo_zero": _apo_zero, "apo_down": _apo_down, "discopop": _discopop,
}  # fmt: skip

"""Brings hidden states of the backbone down to the width of the side network."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


def build_downsample(kind: str, hidden_size: int, side_size: int, rank: int) -> nn.Module:
    """Build one downsampling module.

    Args:
        kind: `adapter` (low rank, SiLU, layer norm: the paper's default), `lora` (low rank, linear), `linear`,
            `maxpool` or `avgpool` (no parameters).
        hidden_size: Width of the backbone.
        side_size: Width of the side network.
        rank: Inner width of `adapter` and `lora`.
    """
    if kind in ("adapter", "lora"):
        down, up = nn.Linear(hidden_size, rank, bias=False), nn.Linear(rank, side_size, bias=False)
        for part in (down, up):
            nn.init.kaiming_uniform_(part.weight, a=math.sqrt(5))
        parts = (down, nn.SiLU(), up, nn.LayerNorm(side_size)) if kind == "adapter" else (down, up)
        return nn.Sequential(*parts)
    if kind == "linear":
        return nn.Linear(hidden_size, side_size)
    return Pool(side_size, is_max=kind == "maxpool")


class Pool(nn.Module):
    """Takes the mean or the largest of neighbouring dimensions."""

    def __init__(self, side_size: int, is_max: bool) -> None:
        super().__init__()
        self.side_size = side_size
        self.is_max = is_max

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Pool (rows, tokens, hidden_size) to (rows, tokens, side_size)."""
        pool = functional.adaptive_max_pool1d if self.is_max else functional.adaptive_avg_pool1d
        flat = states.reshape(1, -1, states.shape[-1])
        return pool(flat, self.side_size).reshape(*states.shape[:-1], self.side_size)

"""The side network: a narrow copy of the backbone's shape that reads its hidden states and updates its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from utils.adapters.qst.backbone import BlockKind
from utils.adapters.qst.config import QSTConfig
from utils.adapters.qst.downsample import build_downsample
from utils.adapters.qst.recording import LayerCall
from utils.adapters.qst.side_block import SideBlock, SideWidths, build_norm


class SideNetwork(nn.Module):
    """Blocks beside the backbone's layers.

    With d the downsampling modules and b = sigmoid(gate): g_0 = d_0(h_0), and for every side layer
    g_i = block_i((1 - b_i) * d_i(h_i) + b_i * g_(i-1)); the end is up(norm(g_N)), which is mixed with h_N.

    Everything is float32, the gates with good reason: in bfloat16 an update of a learning rate of 1e-4 is lost in
    rounding, and they never move.

    Args:
        options: The adapter's.
        kind: Of the backbone's blocks.
        side_layers: Backbone layers with a block beside them, rising.
        num_layers: Of the backbone.
        config: The backbone's.
    """

    def __init__(
        self, options: QSTConfig, kind: BlockKind, side_layers: Sequence[int], num_layers: int, config: Any
    ) -> None:
        super().__init__()
        widths = choose_widths(options, kind)
        size, hidden_size = widths.side_size, kind.hidden_size
        self.side_layers = tuple(side_layers)
        self.mix = options.mix
        self.checkpoint_side = options.checkpoint_side
        self.downs = nn.ModuleList(
            build_downsample(options.downsample, hidden_size, size, options.downsample_rank)
            for _ in range(len(side_layers) + 1)
        )
        self.blocks = nn.ModuleList(
            SideBlock(kind, widths, config, layer, num_layers + place, options.side_dropout)
            for place, layer in enumerate(side_layers)
        )
        gate_shape = (len(side_layers), 1 if options.gate == "scalar" else size)
        self.gates = nn.Parameter(torch.full(gate_shape, float(options.gate_init)))
        self.norm = build_norm(kind, size)
        self.up = nn.Linear(size, hidden_size)
        if options.mix == "residual":  # the start is the pretrained model, and the gradient of `up` is not zero
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)
            self.register_parameter("alpha", None)
        else:
            self.alpha = nn.Parameter(torch.ones(hidden_size))

    @property
    def state_indices(self) -> tuple[int, ...]:
        """Indices of the backbone's states that are read: 0 what the first layer reads, i what layer i - 1 gives."""
        return (0, *(layer + 1 for layer in self.side_layers))

    def forward(
        self, states: Mapping[int, torch.Tensor], calls: Mapping[int, LayerCall], end: torch.Tensor
    ) -> torch.Tensor:
        """Mix the side network's answer into the end of the backbone.

        Args:
            states: By index, shape (rows, tokens, hidden_size).
            calls: What each layer of the backbone was given.
            end: The backbone's last states, behind its final norm; the same shape.
        """
        hidden = self.downs[0](self._fit(states[0]))
        for place, layer in enumerate(self.side_layers):
            step = (place, hidden, states[layer + 1], calls[layer])
            if self.checkpoint_side and self.training and torch.is_grad_enabled():
                hidden = checkpoint(self._step, *step, use_reentrant=False)
            else:
                hidden = self._step(*step)
        update = self.up(self.norm(hidden))
        if self.alpha is None:
            return end + update.to(end.dtype)
        share = self.alpha if self.mix == "paper" else self.alpha.sigmoid()
        return (share * end + (1 - share) * update).to(end.dtype)

    def _step(self, place: int, hidden: torch.Tensor, state: torch.Tensor, call: LayerCall) -> torch.Tensor:
        gate = self.gates[place].sigmoid()
        mixed = (1 - gate) * self.downs[place + 1](self._fit(state)) + gate * hidden
        return self.blocks[place](mixed, call)  # type: ignore[no-any-return]

    def _fit(self, state: torch.Tensor) -> torch.Tensor:
        """Bring a state to this network's device and, where autocast does not choose it, dtype."""
        if torch.is_autocast_enabled(self.gates.device.type):
            return state.to(self.gates.device)
        return state.to(self.gates)


def choose_widths(options: QSTConfig, kind: BlockKind) -> SideWidths:
    """Divide the backbone's widths; heads keep their size, and there are fewer of them.

    Raises:
        ValueError: reduction_factor does not divide hidden_size.
    """
    factor, hidden_size = options.reduction_factor, kind.hidden_size
    if hidden_size % factor:
        known = ", ".join(str(each) for each in range(1, 129) if hidden_size % each == 0)
        raise ValueError(f"reduction_factor: {factor} does not divide hidden_size {hidden_size}; {known} do")
    size = hidden_size // factor
    head_dim = options.side_head_dim or kind.head_dim
    if head_dim % 2:
        raise ValueError(f"side_head_dim: {head_dim} must be even")
    return SideWidths(size, max(1, kind.intermediate_size // factor), max(1, size // head_dim), head_dim)

"""The side network, a narrow copy of the backbone's architecture, and the module that joins it to the body's end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from utils.adapters.qst.backbone import BlockKind, LayerCall, Recorder
from utils.adapters.qst.config import QSTConfig
from utils.adapters.qst.side_block import SideBlock, SideWidths, build_norm


class SideNetwork(nn.Module):
    """Side blocks for `side_layers`, in ascending order, of the backbone's `num_layers`; `config` is the backbone's.

    With d the downsampling modules and b = sigmoid(gate): g_0 = d_0(h_0), and for every side layer g_i = block_i((1 -
    b_i) * d_i(h_i) + b_i * g_(i-1)); the output is up(norm(g_N)), which is mixed with h_N.

    All parameters are float32. This matters for the gates: in bfloat16, updates at a learning rate of 1e-4 are lost to
    rounding, and the gates never move.
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
        """Indices of the backbone's states that are read: 0 is the first layer's input, i the output of layer i - 1."""
        return (0, *(layer + 1 for layer in self.side_layers))

    def forward(
        self, states: Mapping[int, torch.Tensor], calls: Mapping[int, LayerCall], end: torch.Tensor
    ) -> torch.Tensor:
        """Mix the side network's output into the end of the backbone, its last states after the final norm.

        States, by index, and the end have shape (rows, tokens, hidden_size); `calls` holds each layer's arguments.
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
            return end + update.to(end.dtype)  # an update of zero leaves the end exactly unchanged
        share = self.alpha if self.mix == "paper" else self.alpha.sigmoid()
        return (share * end + (1 - share) * update).to(end.dtype)

    def _step(self, place: int, hidden: torch.Tensor, state: torch.Tensor, call: LayerCall) -> torch.Tensor:
        gate = self.gates[place].sigmoid()
        mixed = (1 - gate) * self.downs[place + 1](self._fit(state)) + gate * hidden
        return self.blocks[place](mixed, call)

    def _fit(self, state: torch.Tensor) -> torch.Tensor:
        """Move a state to this network's device and, unless autocast chooses it, dtype."""
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


def build_downsample(kind: str, hidden_size: int, side_size: int, rank: int) -> nn.Module:
    """Build one downsampling module from hidden_size to side_size.

    `kind` is `adapter` (low rank, SiLU, layer norm: the paper's default), `lora` (low rank, linear), `linear`,
    `maxpool` or `avgpool` (no parameters); `rank` is the inner width of the first two.
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
    """Takes the mean or maximum of neighboring dimensions."""

    def __init__(self, side_size: int, is_max: bool) -> None:
        super().__init__()
        self.side_size = side_size
        self.is_max = is_max

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Pool (rows, tokens, hidden_size) to (rows, tokens, side_size)."""
        pool = functional.adaptive_max_pool1d if self.is_max else functional.adaptive_avg_pool1d
        flat = states.reshape(1, -1, states.shape[-1])
        return pool(flat, self.side_size).reshape(*states.shape[:-1], self.side_size)


Observe = Callable[[Mapping[int, torch.Tensor]], None]


class QSTMix(nn.Module, BaseTunerLayer):
    """Runs the end of the body, then the side network, and mixes both.

    `base_layer` is the final norm, or the last layer if there is none; `recorder` has the layers' inputs.
    """

    adapter_layer_names = ("qst_side",)
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, recorder: Recorder, ends_with_layer: bool) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.qst_side = nn.ModuleDict()
        self.recorder = recorder
        self.observe: Observe | None = None
        """Called with the backbone's states of every forward pass that the side network sees."""
        self._ends_with_layer = ends_with_layer
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def add_side(self, adapter_name: str, side: SideNetwork, inference_mode: bool) -> None:
        """Add a side network under its adapter's name."""
        self.qst_side[adapter_name] = side
        self.recorder.wanted |= set(side.state_indices)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the base layer's output with the side network's update."""
        output = self.base_layer(*args, **kwargs)
        active = [name for name in self.active_adapters if name in self.qst_side]
        if self.disable_adapters or not active:
            self.recorder.forget()
            return output
        if len(active) > 1:
            raise ValueError(f"one side network can be active at a time, not {', '.join(active)}")
        end = output[0] if isinstance(output, tuple) else output
        read = args[0] if args else kwargs["hidden_states"]
        states, calls = self.recorder.finish(end if self._ends_with_layer else read)
        if self.observe is not None:
            self.observe(states)
        mixed = self.qst_side[active[0]](states, calls, end.detach())
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Move a side network to the base layer's device.

        peft's own method looks for a weight, which the last layer of an encoder lacks, and casts to its dtype.
        """
        beside = next(self.base_layer.parameters(), None)
        if adapter_name not in self.qst_side or (device is None and beside is None):
            return
        side = self.qst_side[adapter_name]
        if not any(parameter.is_meta for parameter in side.parameters()):  # they are about to be loaded
            side.to(device if beside is None or device is not None else beside.device)

    def __getattr__(self, name: str) -> Any:
        """Delegate missing attributes to the base layer, since models read attributes of their layers."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

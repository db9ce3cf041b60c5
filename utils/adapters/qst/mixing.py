"""Where side networks join a model: a module around the end of its body."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from utils.adapters.qst.recording import Recorder
from utils.adapters.qst.side_net import SideNetwork

Observe = Callable[[Mapping[int, torch.Tensor]], None]


class QSTMix(nn.Module, BaseTunerLayer):
    """Runs the end of the body, then the side network, and mixes both.

    Args:
        base_layer: The final norm, or the last layer where there is no such norm.
        recorder: Knows what the layers were given.
        ends_with_layer: base_layer is the last layer.
    """

    adapter_layer_names = ("qst_side",)
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, recorder: Recorder, ends_with_layer: bool) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.qst_side = nn.ModuleDict()
        self.recorder = recorder
        self.observe: Observe | None = None
        """Is shown the backbone's states of every forward pass that the side network sees."""
        self._ends_with_layer = ends_with_layer
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def add_side(self, adapter_name: str, side: SideNetwork, inference_mode: bool) -> None:
        """Add a side network by the name of its adapter."""
        self.qst_side[adapter_name] = side
        self.recorder.wanted |= set(side.state_indices)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Give what the base layer gives, with the side network's update in it."""
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
        """Move a side network beside the base layer.

        peft's own looks for a weight, which the last layer of an encoder lacks, and casts to the dtype it finds.
        """
        beside = next(self.base_layer.parameters(), None)
        if adapter_name not in self.qst_side or (device is None and beside is None):
            return
        side = self.qst_side[adapter_name]
        if not any(parameter.is_meta for parameter in side.parameters()):  # they are about to be loaded
            side.to(device if beside is None or device is not None else beside.device)

    def __getattr__(self, name: str) -> Any:
        """Ask the base layer for what this module lacks: models read attributes of their layers."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

"""Records what the backbone's layers were given in one forward pass: hidden states, masks, positions, the KV cache."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

_CACHES = ("past_key_values", "past_key_value", "layer_past")
_PASSED_ON = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "position_ids")
"""What an attention function may need of a packed row."""


@dataclass(frozen=True)
class LayerCall:
    """What one layer was given beside hidden states."""

    attention_mask: Any = None
    """As the model's attention implementation wants it."""
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None
    """Cosines and sines of the rotary embedding, shape (rows or 1, tokens, dimensions); None: there is none."""
    cache: Any = None
    """The KV cache that is written to; None: none."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Where the documents of a packed row are."""


class Recorder:
    """Hooks on the layers of a backbone, all of them, in order."""

    def __init__(self, layers: Collection[nn.Module]) -> None:
        self.wanted: frozenset[int] = frozenset()
        """Indices of the hidden states that are kept: 0 is what the first layer reads, i what layer i - 1 gives."""
        self.states: dict[int, torch.Tensor] = {}
        self.calls: dict[int, LayerCall] = {}
        self.is_paused = False
        """While somebody else calls layers and records for them."""
        self._signatures = [signature(type(layer).forward) for layer in layers]
        self._handles = [
            layer.register_forward_pre_hook(partial(self._before_layer, index), with_kwargs=True)
            for index, layer in enumerate(layers)
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def record(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """Record one call, and give its hidden states, cut off from whatever computed them."""
        given = self._signatures[index].bind_partial(None, *args, **kwargs).arguments
        given = {**given, **given.pop("kwargs", {})}
        hidden: torch.Tensor = given["hidden_states"].detach()
        if index == 0:
            self.forget()
        if index in self.wanted:
            self.states[index] = hidden
        self.calls[index] = _read_call(given)
        return hidden

    def finish(self, final: torch.Tensor) -> tuple[dict[int, torch.Tensor], dict[int, LayerCall]]:
        """Give what was recorded, the last layer's output with it, and forget it."""
        states, calls = self.states, self.calls
        states[len(self._signatures)] = final.detach()
        self.forget()
        return states, calls

    def forget(self) -> None:
        """Keep nothing of what was recorded."""
        self.states, self.calls = {}, {}

    def _before_layer(self, index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.is_paused:
            return None
        hidden = self.record(index, args, kwargs)
        if index:
            return None
        # No graph may reach the backbone, whoever has made its embeddings' output require a gradient.
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def _read_call(given: Mapping[str, Any]) -> LayerCall:
    cache = next((given[name] for name in _CACHES if given.get(name) is not None), None)
    embeddings = _read_embeddings(given.get("position_embeddings"))
    more = {name: given[name] for name in _PASSED_ON if given.get(name) is not None}
    return LayerCall(given.get("attention_mask"), embeddings, cache, more)


def _read_embeddings(given: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Take cosines and sines; other kinds of rotary embeddings (complex, or several per token) are not read."""
    if isinstance(given, tuple | list) and len(given) == 2 and given[0].dim() == 3:
        return given[0], given[1]
    return None

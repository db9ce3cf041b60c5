"""What a side network needs from a backbone: where its layers are, how they are built, and their inputs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import torch
import transformers
from torch import nn

from utils.adapters.targets import shape_of
from utils.core.errors import ModelError
from utils.core.model_configs import hash_config

_FINAL_NORMS = ("norm", "final_layer_norm", "ln_f", "final_norm", "final_layernorm", "norm_f", "ln_out")
_INSIDE_ATTENTION = re.compile(r"(^|\.)(self_)?(attn|attention|self_attention|selfattention)(\.|$)")

_CACHES = ("past_key_values", "past_key_value", "layer_past")
_PASSED_ON = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "position_ids")
"""Arguments that an attention function may need for a packed row."""
_NOT_THE_BACKBONE = (".qst_side.", ".modules_to_save.", ".original_module.")


@dataclass(frozen=True)
class Backbone:
    """Locations of modules in a model."""

    layers_path: str
    """Path of the list of layers."""
    mix_path: str
    """Path of the module whose output the side network is added to: the final norm, else the last layer."""
    num_layers: int

    @property
    def ends_with_layer(self) -> bool:
        """Whether the body ends with its last layer, as in most encoders."""
        return self.mix_path.startswith(f"{self.layers_path}.")


@dataclass(frozen=True)
class BlockKind:
    """Architecture of a backbone's block, for building similar side blocks."""

    hidden_size: int
    intermediate_size: int
    head_dim: int
    is_gated: bool
    has_bias: bool
    """Whether the linear layers have biases."""
    norm: str
    """`rms` or `layer`."""
    norm_eps: float
    activation: str
    is_causal: bool


def find_backbone(model: nn.Module, layers_path: str | None = None) -> Backbone:
    """Find the layers and the end of the body of a transformers model, with or without side networks.

    `layers_path` is the path of the layers if they cannot be found automatically.

    Raises:
        ModelError: They cannot be found, or one layer is used repeatedly, as in ALBERT.
    """
    path = layers_path or _find_layers(model)
    try:
        layers: Any = model.get_submodule(path)
        num_layers = len(layers)
    except (AttributeError, TypeError):
        raise ModelError(f"peft.layers_path: {path} is not a list of layers in this model") from None
    body_path, _, _ = path.rpartition(".")
    body = model.get_submodule(body_path) if body_path else model
    prefix = f"{body_path}." if body_path else ""
    for name in _FINAL_NORMS:
        if isinstance(getattr(body, name, None), nn.Module):
            return Backbone(path, f"{prefix}{name}", num_layers)
    return Backbone(path, f"{path}.{num_layers - 1}", num_layers)


def inspect_block(model: Any, layer: nn.Module) -> BlockKind:
    """Determine the architecture of blocks from the first layer and the model's configuration."""
    config = model.config.get_text_config()
    hidden_size = int(config.hidden_size)
    num_heads = int(config.num_attention_heads)
    intermediate_size, is_gated, has_bias = _inspect_mlp(layer, config, hidden_size)
    norm, eps = _inspect_norm(layer, config)
    causal = [part.is_causal for part in layer.modules() if isinstance(getattr(part, "is_causal", None), bool)]
    return BlockKind(
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        head_dim=int(getattr(config, "head_dim", None) or hidden_size // num_heads),
        is_gated=is_gated,
        has_bias=has_bias,
        norm=norm,
        norm_eps=eps,
        activation=_find_activation(config),
        is_causal=causal[0] if causal else False,
    )


def describe_backbone(model: Any, states: Iterable[int]) -> dict[str, Any]:
    """Identify a backbone by everything that affects these hidden states, so that cached states fit no other.

    All weights are read, about a second per gigabyte, since files may be renamed, and quantized in many ways.

    Returns:
        Facts for JSON, which are equal only if the hidden states are.
    """
    config = model.config.get_text_config()
    return {
        "config": hash_config(config.to_dict()),
        "weights": _hash_weights(model.base_model),
        "states": sorted(states),
        "attn_implementation": config._attn_implementation,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "device": next(model.parameters()).device.type,
    }


def _find_layers(model: Any) -> str:
    from transformers.modeling_layers import GradientCheckpointingLayer

    config = model.config.get_text_config()
    num_layers = int(getattr(config, "num_hidden_layers", 0))
    if (reason := _find_hindrance(config)) is not None:
        raise ModelError(f"peft.method: qst does not fit a model of the type {config.model_type}, {reason}; use lora")
    found = [
        name for name, part in model.named_modules()
        if isinstance(part, nn.ModuleList) and len(part) == num_layers
        and isinstance(part[0], GradientCheckpointingLayer)
    ]  # fmt: skip
    if len(found) != 1:
        what = "no list of layers" if not found else f"several lists of layers ({', '.join(found)})"
        raise ModelError(f"peft.method: qst found {what} in {type(model).__name__}; name it by peft.layers_path")
    return str(found[0])


def _find_hindrance(config: Any) -> str | None:
    if getattr(config, "num_hidden_groups", None):
        return "which uses one layer again and again"
    if not getattr(config, "num_attention_heads", None):
        return "which has no attention"
    if config.model_type in ("bloom", "mpt") or getattr(config, "alibi", False):
        return "whose positions are biases of each attention head (ALiBi)"
    return None


def _inspect_mlp(layer: nn.Module, config: Any, hidden_size: int) -> tuple[int, bool, bool]:
    """Find width, gating and biases of the MLP from its linear layers; a mixture of experts has no such layers."""
    linears = [part for name, part in _linears(layer) if not _INSIDE_ATTENTION.search(name)]
    shapes = [shape_of(part) for part in linears]
    down = [part for part, (width, out) in zip(linears, shapes, strict=True) if out == hidden_size != width]
    if not down:
        known = (getattr(config, name, None) for name in ("moe_intermediate_size", "intermediate_size"))
        return next((int(width) for width in known if width), 4 * hidden_size), True, False
    width, _ = shape_of(down[-1])
    up = sum(out for each, out in shapes if each == hidden_size)
    return width, up >= 2 * width, getattr(down[-1], "bias", None) is not None


def _linears(layer: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, part in layer.named_modules():
        if isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D":
            yield name, part


def _inspect_norm(layer: nn.Module, config: Any) -> tuple[str, float]:
    for part in layer.modules():
        if isinstance(part, nn.LayerNorm):
            return "layer", float(part.eps)
    return "rms", float(getattr(config, "rms_norm_eps", 1e-6))


def _find_activation(config: Any) -> str:
    for key in ("hidden_activation", "hidden_act", "activation_function", "activation"):
        if isinstance(name := getattr(config, key, None), str):
            return name
    return "gelu"


def _hash_weights(body: torch.nn.Module) -> str:
    """Hash names, dtypes and bytes of the body's tensors, including the scales of quantized ones."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(body.state_dict().items()):
        if isinstance(value, torch.Tensor) and not any(part in f".{name}." for part in _NOT_THE_BACKBONE):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class LayerCall:
    """Arguments of one layer's forward pass, except the hidden states."""

    attention_mask: Any = None
    """Mask in the form of the model's attention implementation."""
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None
    """Cosines and sines of the rotary embedding, shape (rows or 1, tokens, dimensions); None: no rotary embedding."""
    cache: Any = None
    """The KV cache that is written to, or None."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Positions of the documents in a packed row."""


class Recorder:
    """Hooks on all layers of a backbone, in order."""

    def __init__(self, layers: Collection[nn.Module]) -> None:
        self.wanted: frozenset[int] = frozenset()
        """Indices of the hidden states to keep: 0 is the first layer's input, i the output of layer i - 1."""
        self.states: dict[int, torch.Tensor] = {}
        self.calls: dict[int, LayerCall] = {}
        self.is_paused = False
        """Whether other code is calling the layers and recording for them."""
        self._signatures = [signature(type(layer).forward) for layer in layers]
        self._handles = [
            layer.register_forward_pre_hook(partial(self._before_layer, index), with_kwargs=True)
            for index, layer in enumerate(layers)
        ]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def record(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        """Record one call, and return its hidden states, detached."""
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
        """Return everything recorded, adding the last layer's output, and clear it."""
        states, calls = self.states, self.calls
        states[len(self._signatures)] = final.detach()
        self.forget()
        return states, calls

    def forget(self) -> None:
        """Clear everything recorded."""
        self.states, self.calls = {}, {}

    def _before_layer(self, index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.is_paused:
            return None
        hidden = self.record(index, args, kwargs)
        if index:
            return None
        # No graph may reach the backbone, even if something made its embeddings' output require a gradient.
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def _read_call(given: Mapping[str, Any]) -> LayerCall:
    cache = next((given[name] for name in _CACHES if given.get(name) is not None), None)
    embeddings = _read_embeddings(given.get("position_embeddings"))
    more = {name: given[name] for name in _PASSED_ON if given.get(name) is not None}
    return LayerCall(given.get("attention_mask"), embeddings, cache, more)


def _read_embeddings(given: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Read cosines and sines; other kinds of rotary embeddings (complex, or several per token) are ignored."""
    if isinstance(given, tuple | list) and len(given) == 2 and given[0].dim() == 3:
        return given[0], given[1]
    return None

"""Finds in a backbone what a side network needs: its layers, where its body ends, and the kind of its blocks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from utils.adapters.targets import shape_of
from utils.core.errors import ModelError

_FINAL_NORMS = ("norm", "final_layer_norm", "ln_f", "final_norm", "final_layernorm", "norm_f", "ln_out")
_INSIDE_ATTENTION = re.compile(r"(^|\.)(self_)?(attn|attention|self_attention|selfattention)(\.|$)")

_NOT_THE_BACKBONE = (".qst_side.", ".modules_to_save.", ".original_module.")


@dataclass(frozen=True)
class Backbone:
    """Where things are in a model."""

    layers_path: str
    """The list of its layers."""
    mix_path: str
    """The module whose output the side network is added to: the final norm, else the last layer."""
    num_layers: int

    @property
    def ends_with_layer(self) -> bool:
        """Tell whether the body ends with its last layer, as most encoders do."""
        return self.mix_path.startswith(f"{self.layers_path}.")


@dataclass(frozen=True)
class BlockKind:
    """How a block of the backbone is built, so that a side block is built alike."""

    hidden_size: int
    intermediate_size: int
    head_dim: int
    is_gated: bool
    has_bias: bool
    """In the linear layers."""
    norm: str
    """`rms` or `layer`."""
    norm_eps: float
    activation: str
    is_causal: bool


def find_backbone(model: nn.Module, layers_path: str | None = None) -> Backbone:
    """Find layers and the end of the body of a model of transformers, plain or with side networks in it.

    `layers_path` is the path of the layers where they are not found; None: the list of the model's layers.

    Raises:
        ModelError: They cannot be found, or one layer is used for all, as in ALBERT.
    """
    path = layers_path or _find_layers(model)
    try:
        layers: Any = model.get_submodule(path)
        num_layers = len(layers)
    except (AttributeError, TypeError):
        raise ModelError(f"peft.layers_path: {path} is no list of layers in this model") from None
    body_path, _, _ = path.rpartition(".")
    body = model.get_submodule(body_path) if body_path else model
    prefix = f"{body_path}." if body_path else ""
    for name in _FINAL_NORMS:
        if isinstance(getattr(body, name, None), nn.Module):
            return Backbone(path, f"{prefix}{name}", num_layers)
    return Backbone(path, f"{path}.{num_layers - 1}", num_layers)


def inspect_block(model: Any, layer: nn.Module) -> BlockKind:
    """Read off the first layer, and the model's configuration, how its blocks are built."""
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
    """Name a backbone by all that decides these hidden states, so that states on disk are used for no other.

    The weights are read whole, about a second for each gigabyte: files may be renamed, and quantized in many ways.

    Returns:
        Facts for JSON; equal only where the hidden states are.
    """
    config = model.config.get_text_config()
    return {
        "model_type": config.model_type,
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
    """Find width, gating and biases of the MLP from its linear layers; a mixture of experts has none of its own."""
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
    """Hash names, dtypes and bytes of the body's tensors, the scales of quantized ones among them."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(body.state_dict().items()):
        if isinstance(value, torch.Tensor) and not any(part in f".{name}." for part in _NOT_THE_BACKBONE):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

"""One block of a side network: attention and MLP like the backbone's, but narrower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from utils.adapters.qst.backbone import BlockKind, LayerCall


@dataclass(frozen=True)
class SideWidths:
    """Widths of a side block."""

    side_size: int
    intermediate_size: int
    num_heads: int
    head_dim: int


class SideBlock(nn.Module):
    """Norm, attention, norm, MLP, each with a residual connection.

    The family's own layer class is not used: transformers records hidden states by class, and narrow layers among them
    would corrupt `output_hidden_states`. `config` is the backbone's, whose attention implementation is used;
    `layer_index` is that of the backbone layer next to the block. Keys and values use the KV cache at `cache_index`,
    after those of the backbone.
    """

    def __init__(
        self, kind: BlockKind, widths: SideWidths, config: Any, layer_index: int, cache_index: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention_norm = build_norm(kind, widths.side_size)
        self.attention = SideAttention(kind, widths, config, layer_index, cache_index)
        self.mlp_norm = build_norm(kind, widths.side_size)
        self.mlp = SideMLP(kind, widths)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor, call: LayerCall) -> torch.Tensor:
        """Return the next side states, shape (rows, tokens, side_size)."""
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), call))
        return hidden + self.dropout(self.mlp(self.mlp_norm(hidden)))


def build_norm(kind: BlockKind, size: int) -> nn.Module:
    """Build a norm like the backbone's."""
    return nn.LayerNorm(size, eps=kind.norm_eps) if kind.norm == "layer" else nn.RMSNorm(size, eps=kind.norm_eps)


class SideMLP(nn.Module):
    """A gated MLP if the backbone's is gated, else a plain one."""

    def __init__(self, kind: BlockKind, widths: SideWidths) -> None:
        super().__init__()
        from transformers.activations import ACT2FN

        self.up = nn.Linear(widths.side_size, widths.intermediate_size, kind.has_bias)
        self.gate = nn.Linear(widths.side_size, widths.intermediate_size, kind.has_bias) if kind.is_gated else None
        self.down = nn.Linear(widths.intermediate_size, widths.side_size, kind.has_bias)
        self.activation = ACT2FN[kind.activation]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map (rows, tokens, side_size) to the same shape."""
        if self.gate is None:
            return self.down(self.activation(self.up(hidden)))
        return self.down(self.activation(self.gate(hidden)) * self.up(hidden))


class SideAttention(nn.Module):
    """Attention over the same tokens, with the mask, the rotary embedding and the KV cache of the backbone's layer."""

    def __init__(self, kind: BlockKind, widths: SideWidths, config: Any, layer_index: int, cache_index: int) -> None:
        super().__init__()
        inner = widths.num_heads * widths.head_dim
        self.q = nn.Linear(widths.side_size, inner, kind.has_bias)
        self.k = nn.Linear(widths.side_size, inner, kind.has_bias)
        self.v = nn.Linear(widths.side_size, inner, kind.has_bias)
        self.o = nn.Linear(inner, widths.side_size, kind.has_bias)
        self.config = config
        self.head_dim = widths.head_dim
        self.layer_idx = layer_index
        self.is_causal = kind.is_causal
        self.num_key_value_groups = 1
        self._cache_index = cache_index

    def forward(self, hidden: torch.Tensor, call: LayerCall) -> torch.Tensor:
        """Map (rows, tokens, side_size) to the same shape."""
        split = (*hidden.shape[:-1], -1, self.head_dim)
        query, key, value = (part(hidden).view(split).transpose(1, 2) for part in (self.q, self.k, self.v))
        if call.position_embeddings is not None:
            cosines, sines = choose_frequencies(*call.position_embeddings, self.head_dim)
            query, key = rotate(query, cosines, sines), rotate(key, cosines, sines)
        if call.cache is not None:
            key, value = _open_cache_layer(call.cache, self.layer_idx, self._cache_index).update(key, value)
        mixed = self._attend(query, key, value, call)
        return self.o(mixed.reshape(*hidden.shape[:-1], -1))

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, call: LayerCall) -> torch.Tensor:
        """Attend with the backbone's implementation; shape (rows, tokens, heads, head_dim)."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        implementation = self.config._attn_implementation
        mask, scaling = _fit_mask(call.attention_mask, query, implementation), self.head_dim**-0.5
        if implementation == "eager" or implementation not in ALL_ATTENTION_FUNCTIONS:
            return functional.scaled_dot_product_attention(query, key, value, mask, scale=scaling).transpose(1, 2)
        attend = ALL_ATTENTION_FUNCTIONS[implementation]
        if "flash" in implementation and query.dtype == torch.float32:  # its kernels support only half precision
            query, key, value = (part.to(torch.bfloat16) for part in (query, key, value))
        window = getattr(self.config, "sliding_window", None) if _slides(self.config, self.layer_idx) else None
        mixed: torch.Tensor = attend(
            self, query, key, value, mask, dropout=0.0, scaling=scaling, sliding_window=window, **call.more
        )[0]
        return mixed.to(value.dtype)


def choose_frequencies(cosines: torch.Tensor, sines: torch.Tensor, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one cosine and sine per pair of dimensions; narrower heads use evenly spaced frequencies.

    Shape (rows or 1, tokens, rotated dimensions) becomes (rows or 1, 1, tokens, pairs). The first half holds all
    frequencies in the common layout. If they alternate (f0, f0, f1, f1 ..), it holds the higher half of them twice,
    which is a valid rotary embedding too.
    """
    num_there = cosines.shape[-1] // 2
    num_pairs = min(num_there, head_dim // 2)
    if num_pairs == num_there:
        return cosines[:, None, :, :num_there], sines[:, None, :, :num_there]
    chosen = torch.arange(num_pairs, device=cosines.device) * num_there // num_pairs
    return cosines[:, None, :, chosen], sines[:, None, :, chosen]


def rotate(states: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """Rotate pairs of dimensions of (rows, heads, tokens, head_dim); dimensions beyond the pairs are unchanged."""
    pairs = cosines.shape[-1]
    cosines, sines = cosines.to(states.dtype), sines.to(states.dtype)
    one, other, rest = states[..., :pairs], states[..., pairs : 2 * pairs], states[..., 2 * pairs :]
    return torch.cat([one * cosines - other * sines, other * cosines + one * sines, rest], dim=-1)


def _fit_mask(mask: Any, query: torch.Tensor, implementation: str) -> Any:
    """Convert the backbone's mask to the query's dtype; masks of flash attention or other types are unchanged.

    Raises:
        ValueError: The mask is not of shape (rows, 1, tokens, tokens), as with sparse attention and per-head biases.
    """
    if not isinstance(mask, torch.Tensor) or "flash" in implementation:
        return mask
    if mask.dim() != 4 or mask.shape[1] != 1:
        shape = tuple(mask.shape)
        raise ValueError(f"this model's layers attend by a mask of shape {shape}, which qst does not know; use lora")
    return mask.to(query.dtype) if mask.is_floating_point() else mask.bool()


def _open_cache_layer(cache: Any, layer_index: int, cache_index: int) -> Any:
    """Return a side layer's part of the KV cache.

    It is part of the same cache object, so that beam search, cropping and repeating apply to it.
    """
    if len(cache.layers) == cache_index:  # side blocks come in order, after the backbone's layers
        cache.layers.append(_build_cache_layer(cache.layers[layer_index]))
    return cache.layers[cache_index]


def _build_cache_layer(beside: Any) -> Any:
    """Build a cache layer of the same kind as the backbone's, so that the backbone's mask fits its keys."""
    from transformers import cache_utils

    if isinstance(beside, cache_utils.StaticSlidingWindowLayer):
        return cache_utils.StaticSlidingWindowLayer(beside.max_cache_len, beside.max_cache_len)
    if isinstance(beside, cache_utils.StaticLayer):
        return cache_utils.StaticLayer(beside.max_cache_len)
    if not isinstance(beside, cache_utils.DynamicSlidingWindowLayer):
        return cache_utils.DynamicLayer()
    made = cache_utils.DynamicSlidingWindowLayer(beside.sliding_window)
    if getattr(beside, "record_past", False):
        made.activate_past_recording()
    return made


def _slides(config: Any, layer_index: int) -> bool:
    types = getattr(config, "layer_types", None)
    return types[layer_index] == "sliding_attention" if types else getattr(config, "sliding_window", None) is not None

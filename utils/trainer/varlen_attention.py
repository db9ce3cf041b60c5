"""Attention within the documents of one flattened row, without padding of other layers and without leakage.

The rows of a batch are concatenated into one, so that every layer but attention computes real tokens only. Attention
processes each document separately and causally, in its own call. Batching documents of similar length was slower:
gathering and scattering their tokens takes longer than attending.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from utils.adapters.adapter import evaluating
from utils.core.errors import ModelError

logger = logging.getLogger(__name__)

NAME = "documents"
FLASH = ("flash_attention_2", "flash_attention_3", "flash_attention_4")
_LENGTHS = "lora_ns_lengths"
_LARGEST_HEAD = 256
_AMPERE = (8, 0)
_PROBE_LENGTHS = (5, 9, 2)
_LARGEST_PROBE = 512
_TOLERANCE = 1e-4


def attend_within_documents(  # noqa: PLR0913, PLR0917  the signature is the library's
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each document; the signature is that of transformers' attention functions.

    `query` has shape (1, heads, tokens, head_dim), `key` and `value` (1, key_value_heads, tokens, head_dim), the result
    (1, tokens, heads, head_dim). `cu_seq_lens_q`, shape (documents + 1,), has each document's start, and the number of
    tokens. Other arguments that would change the result are rejected.

    Raises:
        NotImplementedError: The layer's attention is not causal over the whole document.
    """
    if cu_seq_lens_q is None or attention_mask is not None:
        raise NotImplementedError("the layer is not told where documents begin")
    _reject_other_attention(kwargs)
    window = kwargs.get("sliding_window")
    if _has_kernel(query, value, dropout):
        return _attend_by_kernel(query, key, value, cu_seq_lens_q, scaling, window)[None], None
    lengths = _list_lengths(cu_seq_lens_q, query.shape[2])
    attended = []
    for queries, keys, values in zip(*(each.split(lengths, dim=2) for each in (query, key, value)), strict=True):
        mask = _window_mask(window, queries)
        part = scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
        attended.append(part.transpose(1, 2))
    return torch.cat(attended, dim=1), None


@contextmanager
def plain_attention(model: Any) -> Iterator[None]:
    """Use the attention with which the model was loaded, for generating or for padded batches."""
    config = model.config.get_text_config()
    current = config._attn_implementation
    if current == NAME:
        config._attn_implementation = "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = current


@contextmanager
def probing_precision(model: Any) -> Iterator[None]:
    """Use autocast if weights have two precisions, as training will; without it, mixing them is an error.

    Fully trained weights are float32 under mixed precision, and the frozen ones may be bfloat16.
    """
    parameters = [each for each in model.parameters() if each.is_floating_point()]
    dtypes = {each.dtype for each in parameters}
    half = next((each for each in (torch.bfloat16, torch.float16) if each in dtypes), None)
    with torch.autocast(parameters[0].device.type, dtype=half, enabled=half is not None and len(dtypes) > 1):
        yield


def separate_documents(model: Any) -> str | None:
    """Make a causal language model keep the documents of a flattened row apart, and verify it.

    Returns:
        None on success; else the reason why it cannot, with the model unchanged.
    """
    config = model.config.get_text_config()
    loaded = config._attn_implementation
    if loaded not in ("sdpa", *FLASH):
        return f"model.attn_implementation: {loaded} cannot keep documents apart; use sdpa or flash_attention_2"
    if loaded == "sdpa" and getattr(config, "attention_chunk_size", None):
        return f"{config.model_type} attends within chunks of a row"
    if loaded == "sdpa":
        AttentionInterface.register(NAME, attend_within_documents)
        config._attn_implementation = NAME
    try:
        with probing_precision(model):
            difference = _measure_leak(model)
    except (NotImplementedError, TypeError, ValueError) as error:
        reason: str | None = f"{config.model_type} cannot keep documents apart ({error})"
    else:
        exact = difference <= _tolerance(model)
        reason = None if exact else f"in {config.model_type} documents change each other by {difference:.2g}"
    if reason is not None:
        config._attn_implementation = loaded
    return reason


def require_separate_documents(model: Any, key: str = "sft.packing") -> None:
    """Make the model keep documents apart.

    Raises:
        ModelError: It cannot, with the reason.
    """
    if reason := separate_documents(model):
        raise ModelError(f"{key}: {reason}; set {key}: false")


def _has_kernel(query: torch.Tensor, value: torch.Tensor, dropout: float) -> bool:
    """Return whether torch's variable-length flash attention can be used: on NVIDIA GPUs from Ampere on."""
    size = query.shape[-1]
    fits = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and size == value.shape[-1] and not dropout
    fits = fits and size <= _LARGEST_HEAD and size % 8 == 0 and _find_kernel() is not None
    return fits and torch.cuda.get_device_capability(query.device) >= _AMPERE


@cache
def _find_kernel() -> Any:
    """Find torch's variable-length attention; None if it is missing or does not support grouped heads."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "enable_gqa" in signature(varlen_attn).parameters else None


def _attend_by_kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    boundaries: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Attend within documents in one call, without index or mask; the result has shape (tokens, heads, head_dim)."""
    longest = max(_list_lengths(boundaries, query.shape[2]))
    places = boundaries.to(torch.int32)
    attended: torch.Tensor = _find_kernel()(
        *(each[0].transpose(0, 1).contiguous() for each in (query, key, value)), places, places, longest, longest,
        scale=scaling, window_size=(-1 if window is None else window - 1, 0), enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return attended


def _list_lengths(boundaries: torch.Tensor, num_tokens: int) -> list[int]:
    """Return the documents' lengths, read once per batch: layers share the tensor, and reading synchronizes a GPU."""
    known: list[int] | None = getattr(boundaries, _LENGTHS, None)
    if known is not None:
        return known
    if int(boundaries[-1]) != num_tokens:
        raise NotImplementedError("there are tokens outside of the documents")
    lengths: list[int] = boundaries.diff().tolist()
    setattr(boundaries, _LENGTHS, lengths)
    return lengths


def _window_mask(window: int | None, query: torch.Tensor) -> torch.Tensor | None:
    """Return the mask of the last `window` tokens, each token included; None for documents no longer than that."""
    length = query.shape[2]
    if window is None or length <= window:
        return None
    steps = torch.arange(length, device=query.device)
    distance = steps[:, None] - steps[None]
    return (distance >= 0) & (distance < window)


def _reject_other_attention(kwargs: dict[str, Any]) -> None:
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"its attention uses {name}")
    if kwargs.get("is_causal") is False:
        raise NotImplementedError("its attention is not causal")


@torch.no_grad()
def _measure_leak(model: Any) -> float:
    """Return the largest difference between logits of documents in one row and alone, relative to the largest logit."""
    from utils.trainer.flat_batches import FlatCollator

    embeddings = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    lengths = [*_PROBE_LENGTHS, *_window_lengths(model.config.get_text_config())]
    documents = [torch.randint(0, embeddings.shape[0], (n,), generator=generator).tolist() for n in lengths]
    collate = FlatCollator(pad_token_id=0, padding_free=True)
    batch = collate([{"input_ids": each} for each in documents])
    batch.pop("labels")
    moved = {key: each.to(embeddings.device) if torch.is_tensor(each) else each for key, each in batch.items()}
    with evaluating(model):
        together = model(**moved, use_cache=False).logits[0].float()
        with plain_attention(model):
            alone = [
                model(input_ids=torch.tensor([each], device=embeddings.device), use_cache=False).logits[0].float()
                for each in documents
            ]
    whole = torch.cat(alone)
    return float((together - whole).abs().max() / whole.abs().max().clamp(min=1e-6))


def _window_lengths(config: Any) -> list[int]:
    """Return the length of a document longer than the model's window, if it is small enough to probe."""
    window = getattr(config, "sliding_window", None)
    return [window + 3] if isinstance(window, int) and window <= _LARGEST_PROBE else []


def _tolerance(model: Any) -> float:
    return _TOLERANCE if next(model.parameters()).dtype == torch.float32 else 5e-2

"""Hashes by which a later call recognises the same work."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from utils.core.model_configs import hash_config
from utils.generation.server import ServedModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor, nn

_NUM_SAMPLED = 4096  # hashed numbers per tensor: training changes all of them


def hash_json(data: Any) -> str:
    """Hash plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def hash_rows(prompts: Iterable[Sequence[int]], references: Sequence[Any]) -> str:
    """Hash a set's prompts, one at a time, and its references; equal to `hash_json([prompts, references])`."""
    digest = hashlib.sha256(b"[[")
    for number, prompt in enumerate(prompts):
        digest.update((", " if number else "").encode() + json.dumps(list(prompt)).encode())
    digest.update(b"], " + json.dumps(list(references), sort_keys=True).encode() + b"]")
    return digest.hexdigest()[:16]


def hash_model(model: nn.Module | ServedModel) -> str:
    """Hash a model: evenly spaced numbers of each weight, its configuration, its active adapters and their scaling.

    For a server's model, whose weights are unknown here, its name is hashed.
    """
    if isinstance(model, ServedModel):
        return model.identity
    digest = hashlib.sha256()
    off = [name for name, module in model.named_modules() if getattr(module, "disable_adapters", False) is True]
    for name, tensor in sorted(model.state_dict().items()):
        if not off and ".original_module." in name:
            continue  # replaced by its trained copy; the original of a classifier's head is random
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_sample(tensor))
    digest.update(_describe_computation(model).encode())
    for name in off:
        digest.update(f"{name} off".encode())
    digest.update(str(getattr(model, "active_adapters", "")).encode() if hasattr(model, "peft_config") else b"")
    return digest.hexdigest()[:16]


def _describe_computation(model: nn.Module) -> str:
    """Describe what the same weights are computed with: an edited `rope_theta` or `lora_alpha` changes every answer."""
    scaling = {name: module.scaling for name, module in model.named_modules() if hasattr(module, "scaling")}
    keys = hash_config(model.config.to_dict()) if hasattr(model, "config") else None
    return json.dumps([keys, scaling], sort_keys=True, default=str)


def _sample(tensor: Tensor) -> bytes:
    import torch

    if tensor.is_meta or not tensor.numel():
        return b""
    flat = tensor.detach().reshape(-1)
    return bytes(flat[:: -(-flat.numel() // _NUM_SAMPLED)].cpu().contiguous().view(torch.uint8).numpy())

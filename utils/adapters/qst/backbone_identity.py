"""Names a backbone by all that decides its hidden states, so that states on disk are used for no other."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
import transformers

if TYPE_CHECKING:
    from utils.adapters.qst.model import QSTModel

_NOT_THE_BACKBONE = (".qst_side.", ".modules_to_save.", ".original_module.")


def describe_backbone(model: QSTModel) -> dict[str, Any]:
    """Describe a backbone.

    The weights are read whole, about a second for each gigabyte: files may be renamed, and quantized in many ways.

    Args:
        model: With its side network.

    Returns:
        Facts for JSON; equal only where the hidden states are.
    """
    config = model.model.config.get_text_config()
    return {
        "model_type": config.model_type,
        "weights": _hash_weights(model.model.base_model),
        "states": sorted(model.mix.recorder.wanted),
        "attn_implementation": config._attn_implementation,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "device": next(model.model.parameters()).device.type,
    }


def _hash_weights(body: torch.nn.Module) -> str:
    """Hash names, dtypes and bytes of the body's tensors, the scales of quantized ones among them."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(body.state_dict().items()):
        if isinstance(value, torch.Tensor) and not any(part in f".{name}." for part in _NOT_THE_BACKBONE):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

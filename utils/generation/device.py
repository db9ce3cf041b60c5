"""Puts a loaded model onto the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def place_model(model: PreTrainedModel) -> PreTrainedModel:
    """Move a model to the GPU if there is one and it is not placed already, and freeze it for evaluation."""
    import torch

    model.eval().requires_grad_(False)
    placed = getattr(model, "is_quantized", False) or getattr(model, "hf_device_map", None)
    if torch.cuda.is_available() and not placed:
        moved: Any = model.to("cuda")
        model = moved
    return model

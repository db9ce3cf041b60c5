"""Weights of a checkpoint, back into the model that is trained: all of them, or none and a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from utils.adapters.trained_files import require_every_tensor
from utils.core.errors import ModelError

_FILES = ("model.safetensors", "model.safetensors.index.json")


def load_plain_checkpoint(model: Any, folder: Path) -> bool:
    """Load a checkpoint of a model without adapter where its file names tensors otherwise than the model does.

    transformers' Trainer goes by the names alone: what it does not find it leaves as it is. The experts of a mixture
    are one tensor in memory and many in the file, and would be the base's again.

    Args:
        model: The whole model, not wrapped for several processes.
        folder: The checkpoint.

    Returns:
        Whether it was loaded; False where the names are equal, and the Trainer may load it.

    Raises:
        ModelError: The checkpoint lacks tensors, or holds them in other shapes.
    """
    import torch

    if not any((folder / name).is_file() for name in _FILES) or _name_equally(model, folder):
        return False
    is_single = any(parameter.dtype == torch.float32 for parameter in model.parameters())
    loaded, info = type(model).from_pretrained(
        folder,
        dtype=torch.float32 if is_single else model.dtype,  # what is float32 beside bfloat16 must not be rounded
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    if missing := sorted({*info["missing_keys"], *(each[0] for each in info["mismatched_keys"])}):
        raise ModelError(f"{folder}: lacks {len(missing)} trained tensors such as {missing[0]}; take another one")
    model.load_state_dict(loaded.state_dict())
    return True


def require_adapter_checkpoint(model: Any, folder: Path) -> None:
    """See to it that a checkpoint holds every tensor of the adapter that is trained.

    Raises:
        ModelError: It lacks some.
    """
    require_every_tensor(model, folder, str(folder), "the adapter that is trained")


def _name_equally(model: Any, folder: Path) -> bool:
    """Tell whether a checkpoint is one file that has a tensor for each of the model's; tied ones stand there once."""
    from safetensors import safe_open

    file = folder / _FILES[0]
    if not file.is_file():
        return False
    with safe_open(file, "pt") as tensors:
        stored = set(tensors.keys())
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return set(model.state_dict()) - tied <= stored

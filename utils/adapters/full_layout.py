"""Saving and loading of methods that leave a plain model: config.json and safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from utils.adapters.adapter import LoadBase


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write the whole model."""
    model.save_pretrained(folder)


def load(folder: Path, load_base: LoadBase) -> PreTrainedModel:
    """Load the whole model from its folder; the base is not needed."""
    return load_base(str(folder))

"""Prepares a model for generating (device, frozen, evaluation), and restores it afterwards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from utils.generation.server import ServedModel
from utils.modeling.sizes import count_text_positions

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_MISSING = object()


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Restore the random generators of python, numpy, torch and CUDA afterwards."""
    import numpy as np
    import torch

    python, arrays, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(cpu)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


@contextmanager
def ready_to_generate(model: nn.Module) -> Iterator[None]:
    """Disable training features, module by module, and restore them afterwards.

    Dropout and gradient checkpointing are off, and the model's own generation settings (a temperature or a penalty in
    its generation_config.json) are ignored.
    """
    from transformers import GenerationConfig

    modules = list(model.modules())
    training = [module.training for module in modules]
    configs = {id(each.config): each.config for each in modules if hasattr(each, "config")}.values()
    caches = [(config, config.use_cache) for config in configs if hasattr(config, "use_cache")]
    with (
        _set_attribute(modules, "gradient_checkpointing", False),
        _set_attribute(modules, "generation_config", GenerationConfig()),
    ):
        try:
            model.eval()
            yield
        finally:
            for module, mode in zip(modules, training, strict=True):
                module.training = mode
            for config, use_cache in caches:
                config.use_cache = use_cache


@contextmanager
def _set_attribute(modules: list[nn.Module], name: str, value: Any) -> Iterator[None]:
    """Set an attribute on the modules that have it themselves, and restore it, or delete it if it is new."""
    before = [vars(module).get(name, _MISSING) for module in modules]
    try:
        for module, old in zip(modules, before, strict=True):
            if old is not _MISSING:
                setattr(module, name, value)
        yield
    finally:
        for module, old in zip(modules, before, strict=True):
            if old is not _MISSING:
                setattr(module, name, old)
            elif name in vars(module):
                delattr(module, name)


def find_window(model: PreTrainedModel | ServedModel) -> int | None:
    """Return the number of tokens that a model can hold, or None if it is unknown."""
    return model.window if isinstance(model, ServedModel) else count_text_positions(model)


def place_model(model: PreTrainedModel) -> PreTrainedModel:
    """Move a model to the GPU, if there is one and the model is not placed already, and freeze it for evaluation."""
    import torch

    model.eval().requires_grad_(False)
    placed = getattr(model, "is_quantized", False) or getattr(model, "hf_device_map", None)
    if torch.cuda.is_available() and not placed:
        moved: Any = model.to("cuda")
        model = moved
    return model

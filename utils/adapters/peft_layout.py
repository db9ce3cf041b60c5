"""Saving, loading and merging of adapters that peft knows: adapter_config.json and safetensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from utils.adapters.adapter import LoadBase


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapter, and whatever is trained whole beside it, in peft's layout."""
    model.save_pretrained(folder, safe_serialization=True)


def load(folder: Path, load_base: LoadBase) -> PreTrainedModel:
    """Put a saved adapter on a freshly loaded base."""
    from peft import PeftModel

    return PeftModel.from_pretrained(keep_unpacked(load_base(None)), str(folder))  # type: ignore[return-value]


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Add the update to the base weights; the base must be unquantized and freshly loaded."""
    return model.merge_and_unload(safe_merge=True)


def keep_unpacked(model: PreTrainedModel) -> PreTrainedModel:
    """Keep bitsandbytes from re-packing 4-bit weights in the first evaluation, as it does on some CPUs.

    No gradient passes a re-packed weight (an adapter would silently stop learning after its first evaluation),
    and merging into one reads garbage.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


@contextmanager
def explain_targets(model: PreTrainedModel, target_modules: Any) -> Iterator[None]:
    """Turn peft's complaint about target modules into a sentence that names what the model has.

    Raises:
        ModelError: No module matches, or one that matches cannot carry the adapter.
    """
    try:
        yield
    except re.error as error:
        raise ModelError(f"peft: {error.pattern!r} is not a regular expression: {error.msg}") from error
    except ValueError as error:
        if not re.search("arget module|modules were|is incompatible", str(error)):
            raise
        names = ", ".join(_linear_names(model))
        raise ModelError(
            f"peft.target_modules: {target_modules} fits no layer that the method can adapt in this model "
            f"({model.config.model_type}); its linear layers are {names}; or use all-linear"
        ) from error


def _linear_names(model: PreTrainedModel) -> list[str]:
    from torch import nn

    return sorted({name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, nn.Linear)})

"""What a checkpoint needs beside peft's files so that training goes on from it exactly.

peft writes what an adapter is used with: the prompts that an encoder made, not the encoder; the ranks that AdaLoRA
kept, not the importances that it goes by. Read back into a model that is being trained, that is another state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

STATE_FILE = "training_state.safetensors"
_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def save_training_state(model: Any, folder: Path) -> bool:
    """Write everything that is trained, and AdaLoRA's importances, into a checkpoint.

    Args:
        model: Not wrapped for several processes, its tensors whole.
        folder: The checkpoint.

    Returns:
        Whether the method needs it; nothing is written where peft's own files are enough.
    """
    if not _is_needed(model):
        return False
    from safetensors.torch import save_file

    tensors = {f"parameter.{name}": part for name, part in _trained(model)}
    facts: dict[str, str] = {}
    if (allocator := _allocator(model)) is not None:
        tensors |= {f"{kind}.{name}": part for kind in _IMPORTANCE for name, part in getattr(allocator, kind).items()}
        facts["rank_pattern"] = json.dumps(model.active_peft_config.rank_pattern)
    save_file({name: part.detach().cpu().contiguous() for name, part in tensors.items()}, folder / STATE_FILE, facts)
    return True


def load_training_state(model: Any, folder: Path) -> bool:
    """Bring a model back to the state of a checkpoint.

    Args:
        model: With its adapter attached as it was.
        folder: The checkpoint.

    Returns:
        Whether there was such a state; else nothing is changed.
    """
    file = folder / STATE_FILE
    if not _is_needed(model) or not file.is_file():
        return False
    import torch
    from safetensors import safe_open

    with safe_open(file, "pt") as stored:
        with torch.no_grad():
            for name, part in _trained(model):
                part.copy_(stored.get_tensor(f"parameter.{name}"))
        if (allocator := _allocator(model)) is not None:
            devices = {name: part.device for name, part in model.base_model.model.named_parameters()}
            for kind in _IMPORTANCE:
                names = [key.removeprefix(f"{kind}.") for key in sorted(stored.keys()) if key.startswith(f"{kind}.")]
                setattr(
                    allocator, kind, {name: stored.get_tensor(f"{kind}.{name}").to(devices[name]) for name in names}
                )
            model.active_peft_config.rank_pattern = json.loads((stored.metadata() or {}).get("rank_pattern", "null"))
    return True


def _is_needed(model: Any) -> bool:
    config = getattr(model, "active_peft_config", None)
    return _allocator(model) is not None or bool(getattr(config, "is_prompt_learning", False))


def _allocator(model: Any) -> Any:
    return getattr(getattr(model, "base_model", None), "rankallocator", None)


def _trained(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, part) for name, part in model.named_parameters() if part.requires_grad)

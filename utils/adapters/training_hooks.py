"""Hooks by which a method acts during training, beyond gradients, and its state in checkpoints.

A method with hooks defines `training_hooks()` in its module; the trainers call them without naming a method.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import load_adapter
from utils.core.errors import ModelError, UserError
from utils.core.json_files import parse_json

if TYPE_CHECKING:
    import torch

STATE_FILE = "training_state.safetensors"


class TrainingHooks:
    """Hooks that do nothing; a method overrides those it needs. `model` is never wrapped for several processes."""

    keeps_state = False
    """Whether peft's files are not enough to resume training exactly. They hold what is needed to use an adapter, such
    as generated prompts, not their encoder. Trained parameters are then saved unconverted, along with `list_state`."""

    penalty_name = "adapter_penalty"
    """Name of the penalty in the log."""

    def compute_penalty(self, model: Any) -> torch.Tensor | None:
        """Compute a penalty that is added to the loss once for each optimizer step, or return None."""
        return None

    def after_optimizer_step(self, model: Any, step: int) -> None:
        """Change the adapter after optimizer step `step`, counted from 1, while its gradients still exist."""

    def on_learning_rate_restart(self, model: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Change the adapter when the learning rate restarts, between two optimizer steps.

        Args:
            model: The model with its adapter.
            optimizer: The optimizer; `reset_moments` clears its state of parameters that are replaced.
            step: Number of optimizer steps so far.
        """

    def list_state(self, model: Any) -> dict[str, torch.Tensor]:
        """Return the tensors other than parameters that resuming needs, by name."""
        return {}

    def load_state(self, model: Any, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
        """Restore what `list_state` and `describe_state` returned."""

    def describe_state(self, model: Any) -> Any:
        """Return other state that resuming needs, as plain JSON values."""
        return None


def find_hooks(method: str) -> TrainingHooks:
    """Return the hooks of a method, or hooks that do nothing."""
    build = getattr(load_adapter(method), "training_hooks", TrainingHooks)
    hooks: TrainingHooks = build()
    if not isinstance(hooks, TrainingHooks):
        raise UserError(f"peft.method: training_hooks() of {method} returned {hooks!r}, not TrainingHooks")
    return hooks


def save_training_state(hooks: TrainingHooks, model: Any, folder: Path) -> None:
    """Save everything trained, and the method's own state, to a checkpoint, if peft's files are not enough.

    The model must not be wrapped for several processes, and its tensors must be whole.
    """
    if not hooks.keeps_state:
        return
    from safetensors.torch import save_file

    tensors = {f"parameter.{name}": part for name, part in _trained(model)}
    tensors |= {f"state.{name}": part for name, part in hooks.list_state(model).items()}
    facts = {"facts": json.dumps(hooks.describe_state(model))}
    save_file({name: part.detach().cpu().contiguous() for name, part in tensors.items()}, folder / STATE_FILE, facts)


def load_training_state(hooks: TrainingHooks, model: Any, folder: Path) -> bool:
    """Restore the training state of a checkpoint, and return whether the checkpoint has one.

    Raises:
        ModelError: The checkpoint lacks tensors.
    """
    file = folder / STATE_FILE
    if not hooks.keeps_state or not file.is_file():
        return False
    import torch
    from safetensors import safe_open

    with safe_open(file, "pt") as stored:
        if missing := {f"parameter.{name}" for name, _ in _trained(model)} - set(stored.keys()):
            raise ModelError(f"{file}: lacks {len(missing)} trained tensors such as {min(missing)}")
        with torch.no_grad():
            for name, part in _trained(model):
                part.copy_(stored.get_tensor(f"parameter.{name}"))
        others = [name for name in sorted(stored.keys()) if not name.startswith("parameter.")]
        tensors = {name.removeprefix("state."): stored.get_tensor(name) for name in others}
        hooks.load_state(model, tensors, _read_facts(stored.metadata() or {}))
    return True


def _read_facts(metadata: Mapping[str, str]) -> Any:
    """Read the result of `describe_state`; checkpoints of earlier versions store only AdaLoRA's ranks."""
    return parse_json(metadata.get("facts") or metadata.get("rank_pattern") or "null")


def _trained(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, part) for name, part in model.named_parameters() if part.requires_grad)


def reset_moments(optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor]) -> None:
    """Zero the optimizer's state of parameters that were replaced, except for their step counts."""
    for parameter in parameters:
        for name, value in optimizer.state.get(parameter, {}).items():
            if name != "step" and hasattr(value, "zero_"):
                value.zero_()

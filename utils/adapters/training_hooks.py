"""What a method may do beside gradients while it is trained, and the state of it that a checkpoint holds.

A method with hooks offers `training_hooks()` in its module; the trainers call them and name no method.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import load_adapter
from utils.core.errors import ModelError
from utils.core.json_files import parse_json

if TYPE_CHECKING:
    import torch

STATE_FILE = "training_state.safetensors"


class TrainingHooks:
    """Hooks that do nothing; a method overrides those it needs. `model` is never wrapped for several processes."""

    keeps_state = False
    """Whether peft's own files are not enough to train on from exactly: they hold what an adapter is used with, such
    as the prompts that an encoder made, not the encoder. What is trained is then saved as it is, with `list_state`."""

    penalty_name = "adapter_penalty"
    """What the penalty is called in the log."""

    def compute_penalty(self, model: Any) -> torch.Tensor | None:
        """Compute what is added to the loss once for each optimizer step; None: nothing."""
        return None

    def after_optimizer_step(self, model: Any, step: int) -> None:
        """Change the adapter after an optimizer step (from 1) that was made, while its gradients are still there."""

    def on_learning_rate_restart(self, model: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Change the adapter where the learning rate starts over, between two optimizer steps.

        Args:
            model: With its adapter.
            optimizer: What it remembers of a parameter that is replaced can be set to zero by `reset_moments`.
            step: Optimizer steps made so far.
        """

    def list_state(self, model: Any) -> dict[str, torch.Tensor]:
        """List tensors that are no parameters and that training goes on from, by name."""
        return {}

    def load_state(self, model: Any, tensors: Mapping[str, torch.Tensor], facts: Any) -> None:
        """Take back what `list_state` and `describe_state` gave."""

    def describe_state(self, model: Any) -> Any:
        """Give what else training goes on from, as JSON."""
        return None


def find_hooks(method: str) -> TrainingHooks:
    """Give the hooks of a method, which do nothing where it has none."""
    build = getattr(load_adapter(method), "training_hooks", TrainingHooks)
    hooks: TrainingHooks = build()
    return hooks


def save_training_state(hooks: TrainingHooks, model: Any, folder: Path) -> None:
    """Write everything that is trained, and the method's own state, into a checkpoint, where peft's files leave it out.

    The model is not wrapped for several processes, and its tensors are whole.
    """
    if not hooks.keeps_state:
        return
    from safetensors.torch import save_file

    tensors = {f"parameter.{name}": part for name, part in _trained(model)}
    tensors |= {f"state.{name}": part for name, part in hooks.list_state(model).items()}
    facts = {"facts": json.dumps(hooks.describe_state(model))}
    save_file({name: part.detach().cpu().contiguous() for name, part in tensors.items()}, folder / STATE_FILE, facts)


def load_training_state(hooks: TrainingHooks, model: Any, folder: Path) -> bool:
    """Bring a model, its adapter attached as it was, back to the state of a checkpoint; tell whether there was one.

    Raises:
        ModelError: It lacks tensors.
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
    """Read what `describe_state` gave; a checkpoint of an earlier version names AdaLoRA's ranks alone."""
    return parse_json(metadata.get("facts") or metadata.get("rank_pattern") or "null")


def _trained(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, part) for name, part in model.named_parameters() if part.requires_grad)


def reset_moments(optimizer: torch.optim.Optimizer, parameters: Iterable[torch.Tensor]) -> None:
    """Set what an optimizer remembers of parameters that were replaced to zero; the count of their steps stays."""
    for parameter in parameters:
        for name, value in optimizer.state.get(parameter, {}).items():
            if name != "step" and hasattr(value, "zero_"):
                value.zero_()

"""Calls a method's hook after every optimizer step, while the gradients are still there."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from utils.adapters.training_hooks import TrainingHooks


class AdapterHooksCallback(TrainerCallback):
    """Tells a method of each step that was made; one whose gradients overflowed was not.

    Args:
        hooks: Of the method.
    """

    def __init__(self, hooks: TrainingHooks) -> None:
        self._hooks = hooks

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Call the hook; the step that has just been made is counted after this event only."""
        model = kwargs["model"]
        if not (args.fp16 and _has_overflowed(model)):
            self._hooks.after_optimizer_step(model, state.global_step + 1)


def _has_overflowed(model: Any) -> bool:
    grads = [part.grad for part in model.parameters() if part.grad is not None]
    return not all(bool(torch.isfinite(grad).all()) for grad in grads)

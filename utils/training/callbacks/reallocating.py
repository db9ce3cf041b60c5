"""Lets AdaLoRA share out its ranks: after every optimizer step, while the gradients are still there."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class ReallocatingCallback(TrainerCallback):
    """Takes ranks from the layers that need them least, by AdaLoRA's schedule; nobody else calls it.

    Until the ranks are final they stand in no file: a checkpoint holds every rank, so that what is saved is what
    was trained. (Between two allocations a rank that was set to zero may grow again.)
    """

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reallocate; the step that has just been made is counted after this event only."""
        model = kwargs["model"]
        tuner, config = model.base_model, model.active_peft_config
        step = state.global_step + 1
        if args.fp16 and not _are_finite(tuner):
            return  # the step was skipped: its gradients overflowed
        tuner.update_and_allocate(step)
        if step < config.total_step - config.tfinal:
            config.rank_pattern = None


def is_reallocated(model: Any) -> bool:
    """Tell whether a model, not wrapped for several processes, shares out its ranks."""
    return hasattr(getattr(model, "base_model", None), "rankallocator")


def _are_finite(tuner: Any) -> bool:
    grads = [part.grad for name, part in tuner.named_parameters() if "lora_" in name and part.grad is not None]
    return all(bool(torch.isfinite(grad).all()) for grad in grads)

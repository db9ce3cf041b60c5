"""Attaches the adapter that a run asks for, told what it may need to know: the task, the steps, the new tokens."""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import AttachContext, open_adapter
from utils.errors import ConfigError, Problem
from utils.modeling.new_weights import list_new_modules
from utils.modeling.source import resolved_commit
from utils.modeling.tokenizer import added_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.training.tasks import RunSettings


logger = logging.getLogger(__name__)


def attach_adapter(
    model: PreTrainedModel,
    settings: RunSettings,
    tokenizer: PreTrainedTokenizerBase,
    num_train_rows: int,
) -> PreTrainedModel:
    """Attach the method that `peft:` names; the same or a wrapping model is returned.

    Where nothing is trained nothing is attached: an untrained adapter changes no answer.

    Args:
        model: The base with its head.
        settings: The run; its seed draws the adapter's initial weights, the same whatever was drawn before.
        tokenizer: Tells which tokens are new.
        num_train_rows: Decides the number of steps; 0 where nothing can be trained on.

    Raises:
        ConfigError: There are no rows to train on.
    """
    from utils.seeding import seed_everything

    resolved, section = settings.arguments, settings.peft
    if not resolved.get("do_train", True):
        if getattr(model, "is_quantized", False):
            message = (
                "not with training.do_train: false, which transformers' Trainer refuses; leave it out, or score a "
            )
            raise ConfigError([Problem(f"{message}language model by evaluate_model.py --model", "model.quantization")])
        if section.method != "none":
            logger.warning("training.do_train is false: the base model is evaluated as it is; peft has no effect")
        model.requires_grad_(False)
        return model
    if not num_train_rows:
        message = "there are no rows to train on; set it to false to evaluate and predict only"
        raise ConfigError([Problem(message, "training.do_train")])
    context = AttachContext(
        task_type=settings.task_type,
        seed=settings.seed,
        num_training_steps=count_training_steps(resolved, num_train_rows),
        added_token_ids=tuple(added_token_ids(tokenizer, model)),
        mixed_precision=bool(resolved.get("bf16") or resolved.get("fp16")),
        new_modules=tuple(list_new_modules(model)),
        base_commit=resolved_commit(model),
    )
    seed_everything(settings.seed)
    return open_adapter(section.method).attach(model, section, context)


def count_training_steps(resolved: dict[str, Any], num_rows: int) -> int:
    """Count the optimizer steps of a run, as the Trainer will.

    Args:
        resolved: What TrainingArguments is built from.
        num_rows: Training rows; 0 gives 0 steps.
    """
    if resolved.get("max_steps", -1) > 0:
        return int(resolved["max_steps"])
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    rows_at_once = resolved.get("per_device_train_batch_size", 8) * processes
    batches = num_rows // rows_at_once if resolved.get("dataloader_drop_last") else math.ceil(num_rows / rows_at_once)
    steps = max(math.ceil(batches / resolved.get("gradient_accumulation_steps", 1)), 1) if num_rows else 0
    return math.ceil(steps * float(resolved.get("num_train_epochs", 3.0)))

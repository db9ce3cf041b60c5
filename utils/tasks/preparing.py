"""Attach the adapter of a run, with what it may need to know: task, training steps, new tokens."""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import AttachContext, load_adapter
from utils.adapters.adapter_path import load_start
from utils.config.sections.training import DEFAULT_ROWS
from utils.core.errors import ConfigError, Problem, UserError
from utils.modeling.head import list_new_modules
from utils.modeling.quantization import require_trainable
from utils.modeling.source import resolved_commit
from utils.modeling.tokenizer import added_token_ids
from utils.modeling.writing import require_writable
from utils.tasks.task import Task, load_task
from utils.trainer.launch import count_launched
from utils.trainer.processes import main_process_first

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig
    from utils.tasks.task import PreparedData

logger = logging.getLogger(__name__)


def attach_adapter(
    model: PreTrainedModel,
    settings: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    data: PreparedData,
) -> PreTrainedModel:
    """Attach the method that `peft:` names, and return the same or a wrapping model.

    A run that trains nothing gets no adapter: an untrained one changes no answer. The initial weights depend on the
    run's seed alone, not on earlier random draws.

    Raises:
        ConfigError: There are no rows to train on.
        ModelError: The base is stored in a format that cannot be trained, or not saved afterwards.
    """
    from transformers import set_seed

    if not settings.arguments.get("do_train", True):
        return _leave_untrained(model, settings)
    if not data.num_train_rows:
        message = "there are no rows to train on; set it to false to evaluate and predict only"
        raise ConfigError([Problem(message, "training.do_train")])
    require_trainable(model)
    with main_process_first(settings.training.output_dir):  # the other processes read its scores from disk
        load_task(settings.task).measure_base(settings, model, tokenizer)
    section, context = settings.peft, _build_context(model, settings, tokenizer, data)
    set_seed(context.seed)  # loading the base has drawn random numbers
    adapted = load_adapter(section.method).attach(model, section, context)
    if adapted is None:
        raise UserError(f"peft.method: attach of {section.method} returned None; it has to return the model")
    if section.adapter_path is not None:
        load_start(adapted, section, settings.model.name_or_path, settings.model.allow_pickle)
        logger.info("training continues from the adapter in %s", section.adapter_path)
    require_writable(adapted, tokenizer)
    return adapted


def _leave_untrained(model: PreTrainedModel, settings: RunConfig) -> PreTrainedModel:
    """Freeze the base of a run that only evaluates."""
    if getattr(model, "is_quantized", False):
        message = (
            "not with training.do_train: false, which transformers' Trainer refuses; leave it out, or score a "
            "language model by evaluate_model.py --model"
        )
        raise ConfigError([Problem(message, "model.quantization")])
    if settings.peft.method != "none":
        logger.warning("training.do_train is false: the base model is evaluated as it is; peft has no effect")
    model.requires_grad_(False)
    return model


def _build_context(
    model: PreTrainedModel, settings: RunConfig, tokenizer: PreTrainedTokenizerBase, data: PreparedData
) -> AttachContext:
    """Collect what a method may need to know of the run when it is attached."""
    resolved, task = settings.arguments, load_task(settings.task)
    num_rows, num_tokens = data.count_shown()
    seed = settings.seed if settings.peft.init_seed is None else settings.peft.init_seed
    return AttachContext(
        task_type=settings.task_type,
        has_new_head=not task.GENERATES,
        seed=seed,
        num_training_steps=count_training_steps(resolved, data.num_train_rows),
        num_epochs=count_epochs(resolved, data.num_train_rows),
        num_rows=num_rows,
        num_tokens=num_tokens,
        device=choose_device(resolved),
        training_batches=lambda count, size: collate_training_rows(
            data.draw_training_rows(count, seed), size, tokenizer, task
        ),
        added_token_ids=tuple(added_token_ids(tokenizer, model)),
        mixed_precision=bool(resolved.get("bf16") or resolved.get("fp16")),
        new_modules=tuple(list_new_modules(model)),
        base_commit=resolved_commit(model),
    )


def collate_training_rows(
    rows: list[dict[str, Any]], batch_size: int, tokenizer: PreTrainedTokenizerBase, task: type[Task]
) -> list[dict[str, Any]]:
    """Collate rows into batches of tensors as training does, in order; the last batch may be smaller."""
    collate = task.build_collator(tokenizer)
    wanted = (*tokenizer.model_input_names, "labels", "rejected_input_ids")
    kept = [{key: each for key, each in row.items() if key in wanted} for row in rows]
    return [dict(collate(kept[start : start + batch_size])) for start in range(0, len(kept), batch_size)]


def count_training_steps(resolved: dict[str, Any], num_rows: int) -> int:
    """Count the optimizer steps of a run as the Trainer will; 0 for 0 rows."""
    if resolved.get("max_steps", -1) > 0:
        return int(resolved["max_steps"])
    return math.ceil(_count_steps_per_epoch(resolved, num_rows) * float(resolved.get("num_train_epochs", 3.0)))


def count_epochs(resolved: dict[str, Any], num_rows: int) -> float:
    """Count the epochs of a run; 0 for 0 rows."""
    per_epoch = _count_steps_per_epoch(resolved, num_rows)
    return count_training_steps(resolved, num_rows) / per_epoch if per_epoch else 0.0


def choose_device(resolved: dict[str, Any]) -> str:
    """Return the device that the trainer will use, so that work on the data before it can use it too."""
    import torch

    if resolved.get("use_cpu") or not torch.accelerator.is_available():
        return "cpu"
    kind = torch.accelerator.current_accelerator()
    assert kind is not None, "there is one"
    return f"{kind.type}:{os.environ.get('LOCAL_RANK', '0')}"


def _count_steps_per_epoch(resolved: dict[str, Any], num_rows: int) -> int:
    rows_at_once = resolved.get("per_device_train_batch_size", DEFAULT_ROWS) * count_launched()
    batches = num_rows // rows_at_once if resolved.get("dataloader_drop_last") else math.ceil(num_rows / rows_at_once)
    return max(math.ceil(batches / resolved.get("gradient_accumulation_steps", 1)), 1) if num_rows else 0

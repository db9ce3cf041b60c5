"""Brings rooms together for a classification run: the data for this base model, its head, the adapter."""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING, Any

from utils.adapters.adapter import AdapterSection, AttachContext, open_adapter
from utils.data.classification import ClassificationData, prepare_classification
from utils.data.dataset import DatasetSection, open_dataset
from utils.errors import ConfigError, Problem
from utils.modeling.labels import HeadSpec, build_head_spec, read_label_order
from utils.modeling.new_weights import list_new_modules
from utils.modeling.section import ModelSection
from utils.modeling.source import resolved_commit
from utils.modeling.tokenizer import added_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


logger = logging.getLogger(__name__)


def prepare_data(
    dataset: DatasetSection, model: ModelSection, tokenizer: PreTrainedTokenizerBase, seed: int
) -> ClassificationData:
    """Prepare the set that `dataset:` names, its labels in the order that the checkpoint uses.

    Raises:
        DataError: The rows cannot be used as they are.
    """
    spec = open_dataset(dataset.name).describe_classification(dataset)
    return prepare_classification(spec, dataset, tokenizer, seed, lambda names: read_label_order(model, names))


def describe_head(data: ClassificationData) -> HeadSpec:
    """Describe the task head that the data needs."""
    return build_head_spec(data.coder.names)


def attach_adapter(
    model: PreTrainedModel,
    section: AdapterSection,
    tokenizer: PreTrainedTokenizerBase,
    data: ClassificationData,
    resolved: dict[str, Any],
    seed: int,
) -> PreTrainedModel:
    """Attach the method that `peft:` names; the same or a wrapping model is returned.

    Where nothing is trained nothing is attached: an untrained adapter changes no answer.

    Args:
        model: The base with its head.
        section: The `peft:` section.
        tokenizer: Tells which tokens are new.
        data: Its rows decide the number of steps.
        resolved: What TrainingArguments is built from.
        seed: Draws the adapter's initial weights, the same whatever was drawn before.

    Raises:
        ConfigError: There are no rows to train on.
    """
    from utils.seeding import seed_everything

    if not resolved.get("do_train", True):
        if section.method != "none":
            logger.warning("training.do_train is false: the base model is evaluated as it is; peft has no effect")
        model.requires_grad_(False)
        return model
    if data.train is None:
        message = f"{data.spec.subset} has no rows to train on; set it to false to evaluate and predict only"
        raise ConfigError([Problem(message, "training.do_train")])
    context = AttachContext(
        task_type="SEQ_CLS",
        seed=seed,
        num_training_steps=count_training_steps(resolved, len(data.train.dataset) if data.train else 0),
        added_token_ids=tuple(added_token_ids(tokenizer, model)),
        mixed_precision=bool(resolved.get("bf16") or resolved.get("fp16")),
        new_modules=tuple(list_new_modules(model)),
        base_commit=resolved_commit(model),
    )
    seed_everything(seed)
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

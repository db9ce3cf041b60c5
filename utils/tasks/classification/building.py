"""Builds the trainer of a classification or regression run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    TrainingArguments,
)

from utils.adapters.adapter import head_modules
from utils.config.sections.training import OwnTrainingSection
from utils.core.errors import DataError
from utils.data.classification import ClassificationData
from utils.metrics.metric import compute_metrics, load_metric, metric_names, result_key
from utils.modeling.new_weights import list_new_modules
from utils.tasks.classification.losses import ClassificationLoss, scale_class_weights
from utils.tasks.classification.trainer import ClassificationTrainer, build_arguments, keep_predictions
from utils.trainer.callbacks.added import add_callbacks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_NOT_METRICS = ("loss", "combined_score")
"""What a checkpoint can be judged by without being a metric."""


def build_classification_trainer(
    section: OwnTrainingSection,
    resolved: dict[str, Any],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: ClassificationData,
    seed: int,
) -> ClassificationTrainer:
    """Build the trainer, ready to train.

    Args:
        section: The `training:` section, for the fields that are ours.
        resolved: What TrainingArguments is built from.
        model: With its adapter attached.
        tokenizer: Pads batches.
        data: The prepared set.
        seed: The run's seed.

    Raises:
        DataError: Rows are longer than the model's table of positions.
        ConfigError: Class weights do not fit the data.
    """
    _require_positions(model, data)
    resolved = {**_default_unused(model), **_fit_evaluation(resolved, section, data)}
    arguments = build_arguments(resolved, section, seed)
    half = arguments.bf16 or arguments.fp16
    trainer = ClassificationTrainer(
        model=model,
        args=arguments,
        train_dataset=data.train.dataset if data.train else None,
        eval_dataset=data.evals[""].dataset if "" in data.evals else None,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if half else None),
        compute_loss_func=_build_loss(section, arguments, data),
        compute_metrics=build_compute_metrics(data, arguments.metric_for_best_model),
        preprocess_logits_for_metrics=keep_predictions,
        learning_rates=_head_rates(section, model),
    )
    add_callbacks(trainer, section)
    trainer.configure(section)
    return trainer


def build_compute_metrics(
    data: ClassificationData, best: str | None = None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Build the function that scores an evaluation: every metric of the kind, and the task's combined score.

    Args:
        data: The prepared set.
        best: The result by which checkpoints are compared, which may be none of the usual metrics.
    """
    every = metric_names("regression" if data.num_labels == 1 else "classification")
    chosen = [best] if best and best not in _NOT_METRICS else []
    names = list(dict.fromkeys([*data.spec.metrics, *every, *chosen]))

    def score(prediction: EvalPrediction) -> dict[str, float]:
        values = compute_metrics(names, prediction.predictions, prediction.label_ids, data.num_labels)
        return values | combined_score(values, data)

    return score


def combined_score(values: dict[str, float], data: ClassificationData) -> dict[str, float]:
    """Average the set's own metrics where it has several, as run_glue does."""
    own = [values[result_key(name, data.num_labels)] for name in data.spec.metrics]
    return {"combined_score": sum(own) / len(own)} if len(own) > 1 else {}


def best_metric_name(resolved: dict[str, Any], data: ClassificationData) -> str:
    """Name the result by which checkpoints are compared, as it stands in the results."""
    chosen = str(resolved.get("metric_for_best_model") or data.spec.metrics[0]).removeprefix("eval_")
    return chosen if chosen in _NOT_METRICS else result_key(chosen, data.num_labels)


def _fit_evaluation(resolved: dict[str, Any], section: OwnTrainingSection, data: ClassificationData) -> dict[str, Any]:
    """Spell the best metric as it stands in the results, in its own direction; without rows, never evaluate."""
    if "" not in data.evals:
        never = {"eval_strategy": "no", "load_best_model_at_end": False, "metric_for_best_model": None}
        never["eval_on_start"] = False
        return {**resolved, **never}
    if not resolved.get("metric_for_best_model") and not section.early_stopping_patience:
        return resolved
    name = best_metric_name(resolved, data)
    rising = name == "combined_score" or (name != "loss" and load_metric(name).greater_is_better)
    return {
        **resolved,
        "metric_for_best_model": name,
        "greater_is_better": resolved.get("greater_is_better", rising),
    }


def _default_unused(model: PreTrainedModel) -> dict[str, Any]:
    """Spare DDP the search for parameters without gradient where an adapter is trained: each takes part in the loss.

    A whole model may have some, such as a pooler that its classifier passes over.
    """
    whole = all(parameter.requires_grad for parameter in model.parameters())
    return {} if whole else {"ddp_find_unused_parameters": False}


def _build_loss(
    section: OwnTrainingSection, arguments: TrainingArguments, data: ClassificationData
) -> ClassificationLoss:
    counts = list(data.reports["train"].label_counts.values()) if data.train else []
    wanted = section.class_weights
    if isinstance(wanted, list) and len(wanted) == len(counts):  # written in the data's order of classes
        by_id = dict(zip(data.coder.numbers.values(), wanted, strict=True))
        wanted = [by_id[index] for index in range(len(wanted))]
    weights = scale_class_weights(wanted, counts) if counts else None
    return ClassificationLoss(data.num_labels, weights, arguments.label_smoothing_factor)


def _head_rates(section: OwnTrainingSection, model: PreTrainedModel) -> dict[str, float]:
    """Give the head's own learning rate by parameter."""
    rate = section.head_learning_rate
    return {} if rate is None else dict.fromkeys(_head_parameters(model), rate)


def _head_parameters(model: PreTrainedModel) -> frozenset[str]:
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    heads = head_modules(plain, list_new_modules(plain))
    return frozenset(name for name, _ in model.named_parameters() if any(f".{head}." in f".{name}." for head in heads))


def _require_positions(model: PreTrainedModel, data: ClassificationData) -> None:
    """Check learned positions before the first long row crashes an epoch's middle."""
    from torch import nn

    longest = max(report.token_lengths["max"] for report in data.reports.values())
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rsplit(".", 1)[-1] in (
            "position_embeddings",
            "wpe",
            "embed_positions",
        ):
            first = getattr(module, "offset", module.padding_idx + 1 if module.padding_idx else 0)
            room = module.num_embeddings - first
            if longest > room:
                raise DataError(
                    f"dataset.max_length: a row has {longest} tokens, but the model has positions for {room}; "
                    f"set dataset.max_length: {room}"
                )

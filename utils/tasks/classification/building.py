"""Build the trainer of a classification or regression run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import DataCollatorWithPadding, EvalPrediction, TrainingArguments

from utils.adapters.adapter import head_modules
from utils.config.sections.training import OwnTrainingSection
from utils.core.errors import DataError
from utils.data.classification import ClassificationData
from utils.metrics.metric import load_metric, metric_names, result_key
from utils.metrics.scoring import compute_metrics
from utils.modeling.head import list_new_modules
from utils.tasks.classification.trainer import (
    ClassificationLoss,
    ClassificationTrainer,
    keep_predictions,
    scale_class_weights,
)
from utils.trainer.building import NEVER_EVALUATE, build_arguments, build_trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from utils.config.run_config import RunConfig

_NOT_METRICS = ("loss", "combined_score")
"""Values of `metric_for_best_model` that are results of an evaluation but not metrics."""
_POSITIONS = ("position_embeddings", "wpe", "embed_positions")
"""Names that architectures give their table of learned positions."""


def build_classification_trainer(
    config: RunConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, data: ClassificationData
) -> ClassificationTrainer:
    """Build the trainer for a model with its adapter attached.

    Raises:
        DataError: A row is longer than the model's table of positions.
        ConfigError: The class weights do not fit the data.
    """
    _require_positions(model, data)
    section = config.training
    arguments = build_arguments(
        config, {**_skip_unused_parameter_search(config, model), **_evaluation_arguments(config, data)}
    )
    half = arguments.bf16 or arguments.fp16
    return build_trainer(
        ClassificationTrainer,
        config,
        model=model,
        args=arguments,
        train_dataset=data.train.dataset if data.train else None,
        eval_dataset=data.evals[""].dataset if "" in data.evals else None,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if half else None),
        compute_loss_func=_build_loss(section, arguments, data),
        compute_metrics=build_compute_metrics(data, arguments.metric_for_best_model),
        preprocess_logits_for_metrics=keep_predictions,
        learning_rates=head_rates(section, model),
    )


def build_compute_metrics(
    data: ClassificationData, best: str | None = None
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Build the function that scores an evaluation: all metrics of the task and the combined score.

    `best`, the result by which checkpoints are compared, is computed too if it is another metric.
    """
    every = metric_names("regression" if data.num_labels == 1 else "classification")
    names = list(dict.fromkeys([*data.spec.metrics, *every, *chosen_metric(best)]))

    def score(prediction: EvalPrediction) -> dict[str, float]:
        values = compute_metrics(names, prediction.predictions, prediction.label_ids, data.num_labels)
        return values | combined_score(values, data)

    return score


def chosen_metric(best: str | None) -> list[str]:
    """Return the metric that `metric_for_best_model` names, as a list; empty for the loss or the combined score."""
    name = (best or "").removeprefix("eval_")
    return [name] if name and name not in _NOT_METRICS else []


def combined_score(values: dict[str, float], data: ClassificationData) -> dict[str, float]:
    """Average the dataset's own metrics if it has several, as run_glue does; a script's value has any range."""
    names = [name for name in data.spec.metrics if not load_metric(name).fits_any]
    own = [values[result_key(name, data.num_labels)] for name in names]
    return {"combined_score": sum(own) / len(own)} if len(own) > 1 else {}


def best_metric_name(resolved: dict[str, Any], data: ClassificationData) -> str:
    """Return the name in the results of the result by which checkpoints are compared."""
    chosen = str(resolved.get("metric_for_best_model") or data.spec.metrics[0]).removeprefix("eval_")
    return chosen if chosen in _NOT_METRICS else result_key(chosen, data.num_labels)


def _evaluation_arguments(config: RunConfig, data: ClassificationData) -> dict[str, Any]:
    """Return the best metric's name in the results and its direction as arguments; without rows, never evaluate."""
    resolved = config.arguments
    if "" not in data.evals:
        return dict(NEVER_EVALUATE)
    if not resolved.get("metric_for_best_model") and not config.training.early_stopping_patience:
        return {}
    name = best_metric_name(resolved, data)
    rising = name == "combined_score" or (name != "loss" and load_metric(name).greater_is_better)
    return {"metric_for_best_model": name, "greater_is_better": resolved.get("greater_is_better", rising)}


def _skip_unused_parameter_search(config: RunConfig, model: PreTrainedModel) -> dict[str, bool]:
    """Turn off DDP's search for unused parameters for adapters, all of whose parameters affect the loss.

    A whole model may have unused parameters, such as a pooler that its classifier bypasses.
    """
    whole = all(parameter.requires_grad for parameter in model.parameters())
    key = "ddp_find_unused_parameters"
    return {} if whole or key in config.arguments else {key: False}


def _build_loss(
    section: OwnTrainingSection, arguments: TrainingArguments, data: ClassificationData
) -> ClassificationLoss:
    counts = list(data.reports["train"].label_counts.values()) if data.train else []
    wanted = section.class_weights
    if isinstance(wanted, list) and len(wanted) == len(counts):  # given in the data's order of classes
        by_id = dict(zip(data.coder.numbers.values(), wanted, strict=True))
        wanted = [by_id[index] for index in range(len(wanted))]
    weights = scale_class_weights(wanted, counts) if counts else None
    return ClassificationLoss(data.num_labels, weights, arguments.label_smoothing_factor)


def head_rates(section: OwnTrainingSection, model: PreTrainedModel) -> dict[str, float]:
    """Map each of the head's parameters to `head_learning_rate`."""
    if (rate := section.head_learning_rate) is None:
        return {}
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    heads = head_modules(plain, list_new_modules(plain))
    names = [name for name, _ in model.named_parameters() if any(f".{head}." in f".{name}." for head in heads)]
    return dict.fromkeys(names, rate)


def _require_positions(model: PreTrainedModel, data: ClassificationData) -> None:
    """Compare the longest row with the table of learned positions, before it crashes training mid-epoch."""
    from torch import nn

    longest = max(report.token_lengths["max"] for report in data.reports.values())
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _POSITIONS:
            first = getattr(module, "offset", module.padding_idx + 1 if module.padding_idx else 0)
            available = module.num_embeddings - first
            if longest > available:
                raise DataError(
                    f"dataset.max_length: a row has {longest} tokens, but the model has positions for {available}; "
                    f"set dataset.max_length: {available}"
                )

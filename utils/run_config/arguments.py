"""Lays what the file sets over our defaults: what TrainingArguments is built from."""

from __future__ import annotations

from typing import Any

from utils.config.sections.training import DEFAULT_ROWS, OwnTrainingSection
from utils.tasks.task import Task
from utils.trainer.global_batch import split_batch
from utils.trainer.launch import count_launched


def resolve_arguments(
    section: OwnTrainingSection, task: type[Task], seed: int, metric: str | None, learning_rate: float | None = None
) -> dict[str, Any]:
    """Lay what the file sets over our defaults; the result is what TrainingArguments is built from.

    Args:
        section: The section as written.
        task: Whose defaults are taken.
        seed: The run's seed, also of the data order unless data_seed says otherwise.
        metric: The dataset's own metric, which chooses the best checkpoint; None: the loss.
        learning_rate: The method's own default; None: the library's.
    """
    ours: dict[str, Any] = {
        "report_to": "tensorboard",
        "logging_steps": 10,
        "save_total_limit": 2,
        "data_seed": seed,
        **task.DEFAULTS,
    }
    if learning_rate is not None:
        ours["learning_rate"] = learning_rate
    resolved = {**ours, **section.arguments}
    if resolved.get("gradient_accumulation_steps", 1) is None:
        del resolved["gradient_accumulation_steps"]
    if section.global_batch_size:
        ceiling = resolved.get("per_device_train_batch_size", DEFAULT_ROWS)
        rows, steps = split_batch(section.global_batch_size, ceiling, count_launched()) or (ceiling, 1)
        resolved |= {"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps}
    strategy = resolved.get("eval_strategy", "no")
    resolved.setdefault("save_strategy", strategy if strategy != "no" else "epoch")
    if strategy == "steps":
        resolved["eval_steps"] = resolved.get("eval_steps") or resolved["logging_steps"]
        resolved.setdefault("save_steps", resolved["eval_steps"])
    comparable = strategy != "no" and resolved["save_strategy"] in (strategy, "best")
    resolved.setdefault("load_best_model_at_end", task.KEEPS_BEST and comparable)
    compares = resolved["load_best_model_at_end"] or resolved["save_strategy"] == "best"
    if compares or section.early_stopping_patience:
        resolved["metric_for_best_model"] = resolved.get("metric_for_best_model") or metric or "loss"
    return resolved

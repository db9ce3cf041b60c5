"""HF Trainer for classification: our data order, our loss, learning rates of their own, lean evaluation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import Trainer, TrainingArguments

from utils.config.sections.training import OwnTrainingSection
from utils.core.errors import ConfigError, Problem, UserError
from utils.trainer.adapter_aware import AdapterAware
from utils.trainer.fault_tolerance import FaultTolerant
from utils.trainer.launch import find_sharding, resolve_deepspeed, stand_alone
from utils.trainer.param_group_rates import ParamGroupLearningRates
from utils.trainer.real_rows import RowSums, count_real_rows
from utils.trainer.sampling import SeededRows

if TYPE_CHECKING:
    import torch


class ClassificationTrainer(FaultTolerant, SeededRows, ParamGroupLearningRates, AdapterAware, Trainer):
    """A Trainer whose order of rows depends on data_seed and epoch only.

    Args:
        **kwargs: As for `transformers.Trainer`, and `learning_rates` as for `ParamGroupLearningRates`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._sums = RowSums()

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        """Compute the loss of a batch; an adapter's own penalty is added in training."""
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        return (self.penalize(loss), outputs) if return_outputs else self.penalize(loss)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Evaluate; the loss is the mean over rows, each counted once, however they were split into batches."""
        sums = self._sums = RowSums()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if (loss := sums.read_mean(self.accelerator)) is not None:
            output.metrics[f"{metric_key_prefix}_loss"] = loss
        return output

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; rows that only fill up the last one of several processes leave the loss alone."""
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        if self.compute_loss_func is not None and logits is not None and labels is not None:
            num_real = count_real_rows(self.accelerator, len(labels))
            num_rows = len(labels) if num_real is None else num_real
            first = logits[0] if isinstance(logits, (tuple, list)) else logits
            mean = self.compute_loss_func((first[:num_rows],), labels[:num_rows]) if num_rows else loss * 0
            self._sums.add(mean * num_rows, num_rows)
        return loss, logits, labels


def keep_predictions(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Reduce logits to predictions batch by batch, so that evaluation's memory does not grow with the classes.

    Args:
        logits: Shape (batch, num_labels), or a tuple that starts with it.
        labels: Not used; the Trainer passes them.

    Returns:
        Shape (batch,): class ids, or the value for regression. A batch of one row stays one-dimensional.
    """
    first = logits[0] if isinstance(logits, (tuple, list)) else logits
    return first.squeeze(-1).float() if first.shape[-1] == 1 else first.argmax(dim=-1)


def build_arguments(
    resolved: dict[str, Any],
    section: OwnTrainingSection,
    seed: int,
    kind: type[TrainingArguments] = TrainingArguments,
) -> TrainingArguments:
    """Build TrainingArguments, or a kind of them, from the resolved configuration.

    transformers 5 takes TensorBoard's folder, as W&B's settings, from the environment only: that is where they are put.

    Raises:
        ConfigError: This machine cannot do what is asked, such as bf16.
    """
    _require_device(resolved)
    # Set behind the library's check, which knows evaluations of the loss alone; ours come when the file is read.
    loads_best = bool(resolved.get("load_best_model_at_end"))
    resolved = {**resolved, "load_best_model_at_end": False}
    for name, value in (section.wandb.variables if section.wandb else {}).items():
        os.environ.setdefault(name, value)
    os.environ["TENSORBOARD_LOGGING_DIR"] = section.logging_dir or str(Path(section.output_dir) / "logs")
    try:
        arguments = kind(
            **{
                "restore_callback_states_from_checkpoint": True,
                **_join_processes(),
                **resolved,
                "disable_tqdm": True,
                "push_to_hub": False,  # the finished run is, by us: the Trainer would push checkpoints and logs
                **_name_deepspeed_file(resolved),
            },
            output_dir=section.output_dir,
            seed=seed,
            include_num_input_tokens_seen="non_padding",
            remove_unused_columns=True,
        )
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:  # settings that do not go together, say
        text = " ".join(str(error).split())
        named = max((name for name in resolved if name in text), key=len, default=None)
        raise ConfigError([Problem(text, f"training.{named}" if named else "training")]) from error
    arguments.load_best_model_at_end = loads_best
    return arguments


def _require_device(resolved: dict[str, Any]) -> None:
    """Refuse FSDP on CPUs: accelerate would train by DDP there, and not say so."""
    import torch

    if find_sharding(resolved) == "FSDP" and not torch.accelerator.is_available():
        raise UserError("FSDP needs GPUs, and there is none here; use DDP, or ZeRO by training.deepspeed")


def _join_processes() -> dict[str, bool]:
    """Let processes on CPUs train together: without use_cpu, accelerate leaves each of them alone, unsaid."""
    import torch

    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return {} if alone or torch.accelerator.is_available() else {"use_cpu": True}


def _name_deepspeed_file(resolved: dict[str, Any]) -> dict[str, Any]:
    given = resolved.get("deepspeed")
    if given is None:
        return {}
    stand_alone()
    return {"deepspeed": resolve_deepspeed(given)}

"""Build every task's trainer: its arguments, callbacks, learning rates and hooks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from transformers import TrainingArguments

from utils.adapters.lora.fused_layer import fuse_lora_layers
from utils.adapters.training_hooks import find_hooks
from utils.core.errors import ConfigError, Problem, UserError
from utils.trainer.base import LoraNsTrainer
from utils.trainer.callbacks import add_callbacks
from utils.trainer.launch import (
    count_launched,
    find_sharding,
    is_on,
    is_sharded,
    require_same_compiler,
    require_same_precision,
    resolve_deepspeed,
    stand_alone,
)
from utils.trainer.tracking import guard_trackers, name_run, open_swanlab, tag_run

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig

NEVER_EVALUATE = {
    "eval_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
}
"""Arguments of a run without evaluation rows."""

_Trainer = TypeVar("_Trainer", bound=LoraNsTrainer)


def build_trainer(kind: type[_Trainer], config: RunConfig, **parts: Any) -> _Trainer:
    """Build a task's trainer from the arguments of its class: a model with its adapter, `args`, rows.

    Raises:
        ConfigError: A callback of the user's cannot be loaded.
    """
    open_swanlab(config)
    if kind.FUSES_LORA and not is_sharded(config.arguments):  # ZeRO-3 gathers weights only of called layers
        fuse_lora_layers(parts["model"])
    trainer = kind(**parts)
    section = config.training
    add_callbacks(trainer, section)
    guard_trackers(trainer)
    trainer.on_full_disk, trainer.try_longest = section.on_full_disk, section.try_longest_batch
    trainer.learning_rates |= config.peft.learning_rates(trainer.model, trainer.args.learning_rate)
    trainer.hooks = find_hooks(config.peft.method)
    trainer.optimizer_plugin = section.find_plugin("optim")
    trainer.schedule_plugin = section.find_plugin("lr_scheduler_type")
    return trainer


def build_arguments(
    config: RunConfig, changed: Mapping[str, Any] | None = None, kind: type[TrainingArguments] = TrainingArguments
) -> TrainingArguments:
    """Build the trainer's arguments: the run's, with the task's changes.

    transformers 5 reads TensorBoard's folder and W&B's settings from the environment only, so they are set there.

    Raises:
        ConfigError: This machine does not support a setting, such as bf16.
        UserError: FSDP is requested on CPUs.
    """
    section, resolved = config.training, {**config.arguments, **(changed or {})}
    # Placeholders for plug-ins, which replace them when the trainer is built; transformers does not know their names.
    stand_ins = {"optim": "adamw_torch", "lr_scheduler_type": "constant"}
    resolved |= {key: stand_in for key, stand_in in stand_ins.items() if section.find_plugin(key) is not None}
    _require_device(resolved)
    require_same_precision(resolved)
    require_same_compiler(resolved)
    # Set after the library's check, which knows evaluations of the loss only; the file's own check covers these.
    loads_best, resolved["load_best_model_at_end"] = bool(resolved.get("load_best_model_at_end")), False
    tag_run(config)
    os.environ["TENSORBOARD_LOGGING_DIR"] = section.logging_dir or str(Path(section.output_dir) / "logs")
    try:
        arguments = kind(
            **{
                "restore_callback_states_from_checkpoint": True,
                **name_run(config),
                **_join_processes(),
                **resolved,
                "disable_tqdm": True,
                "push_to_hub": False,  # the Trainer would push checkpoints and logs; the finished run is pushed later
                **_name_deepspeed_file(resolved),
            },
            output_dir=section.output_dir,
            seed=config.seed,
            include_num_input_tokens_seen="non_padding",
            remove_unused_columns=True,
        )
    except (ValueError, TypeError, ImportError, NotImplementedError) as error:  # incompatible settings, for example
        text = " ".join(str(error).split())
        named = max((name for name in resolved if name in text), key=len, default=None)
        raise ConfigError([Problem(text, f"training.{named}" if named else "training")]) from error
    arguments.load_best_model_at_end = loads_best
    return arguments


def _require_device(resolved: dict[str, Any]) -> None:
    """Reject FSDP on CPUs, where accelerate would silently train with DDP."""
    if find_sharding(resolved) == "FSDP" and not torch.accelerator.is_available():
        raise UserError("FSDP needs GPUs, and there is none here; use DDP, or ZeRO by training.deepspeed")


def _join_processes() -> dict[str, bool]:
    """Make processes on CPUs train together: without use_cpu, accelerate silently trains each alone."""
    return {} if count_launched() == 1 or torch.accelerator.is_available() else {"use_cpu": True}


def _name_deepspeed_file(resolved: dict[str, Any]) -> dict[str, Any]:
    given = resolved.get("deepspeed")
    if given is None and not is_on("ACCELERATE_USE_DEEPSPEED"):
        return {}
    stand_alone()
    if given is None:
        return {}
    return {"deepspeed": resolve_deepspeed(given)}

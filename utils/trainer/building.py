"""What every task's trainer is built with: its arguments, callbacks, learning rates, and its method's hooks."""

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
from utils.trainer.launch import count_launched, find_sharding, is_sharded, resolve_deepspeed, stand_alone
from utils.trainer.tracking import name_run, open_swanlab, tag_run

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig

NEVER_EVALUATE = {
    "eval_strategy": "no",
    "eval_on_start": False,
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
}
"""The arguments of a run without rows to evaluate on."""

_Trainer = TypeVar("_Trainer", bound=LoraNsTrainer)


def build_trainer(kind: type[_Trainer], config: RunConfig, **parts: Any) -> _Trainer:
    """Build a task's trainer, ready to train, of what its class takes: a model with its adapter, `args`, rows.

    Raises:
        ConfigError: A callback of the user's cannot be had.
    """
    open_swanlab(config)
    if kind.FUSES_LORA and not is_sharded(config.arguments):  # ZeRO-3 gathers the weights of layers that are called
        fuse_lora_layers(parts["model"])
    trainer = kind(**parts)
    section = config.training
    add_callbacks(trainer, section)
    trainer.on_full_disk, trainer.try_longest = section.on_full_disk, section.try_longest_batch
    trainer.learning_rates |= config.peft.learning_rates(trainer.model, trainer.args.learning_rate)
    trainer.hooks = find_hooks(config.peft.method)
    trainer.optimizer_plugin = section.find_plugin("optim")
    trainer.schedule_plugin = section.find_plugin("lr_scheduler_type")
    return trainer


def build_arguments(
    config: RunConfig, changed: Mapping[str, Any] | None = None, kind: type[TrainingArguments] = TrainingArguments
) -> TrainingArguments:
    """Build the arguments that a trainer takes: those of the run over which lies what its task needs otherwise.

    transformers 5 takes TensorBoard's folder, as W&B's settings, from the environment only: that is where they are put.

    Raises:
        ConfigError: This machine cannot do what is asked, such as bf16.
        UserError: FSDP is asked for on CPUs.
    """
    section, resolved = config.training, {**config.arguments, **(changed or {})}
    # Plug-ins take these places when the trainer is built; transformers does not know their names.
    stand_ins = {"optim": "adamw_torch", "lr_scheduler_type": "constant"}
    resolved |= {key: stand_in for key, stand_in in stand_ins.items() if section.find_plugin(key) is not None}
    _require_device(resolved)
    # Set behind the library's check, which knows evaluations of the loss alone; ours come when the file is read.
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
                "push_to_hub": False,  # the finished run is, by us: the Trainer would push checkpoints and logs
                **_name_deepspeed_file(resolved),
            },
            output_dir=section.output_dir,
            seed=config.seed,
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
    if find_sharding(resolved) == "FSDP" and not torch.accelerator.is_available():
        raise UserError("FSDP needs GPUs, and there is none here; use DDP, or ZeRO by training.deepspeed")


def _join_processes() -> dict[str, bool]:
    """Let processes on CPUs train together: without use_cpu, accelerate leaves each of them alone, unsaid."""
    return {} if count_launched() == 1 or torch.accelerator.is_available() else {"use_cpu": True}


def _name_deepspeed_file(resolved: dict[str, Any]) -> dict[str, Any]:
    given = resolved.get("deepspeed")
    if given is None:
        return {}
    stand_alone()
    return {"deepspeed": resolve_deepspeed(given)}

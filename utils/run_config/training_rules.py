"""Rules for the arguments of TrainingArguments: compatible values, trackers, processes, the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config.document import Document
from utils.config.error_messages import suggest
from utils.config.sections.evaluation import EvaluationSection
from utils.config.sections.training import DEFAULT_ROWS
from utils.core.errors import Problem
from utils.run_config.machine import tracker_names
from utils.trainer.launch import count_launched, deepspeed_problem, division_problem, find_sharding, names_optimizer

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig
    from utils.tasks.task import Task

_REPOSITORY = re.compile(r"(?!.*(--|\.\.|\.git$))(\b[\w.-]{1,96}\b/)?\b[\w.-]{1,96}\b", re.ASCII)
"""A repository's name, as huggingface_hub validates it."""


def check_training(config: RunConfig, task: type[Task], document: Document) -> Iterator[Problem]:
    """Check the resolved training arguments together with the rest of the run."""
    arguments = config.arguments
    yield from _check_arguments(arguments, document)
    yield from _check_hub(config, document)
    yield from _check_processes(config, document)
    if task.evaluates_itself(config):
        return  # it has its own rules for choosing the best checkpoint
    yield from _check_strategies(arguments, document)
    if config.training.early_stopping_patience and arguments.get("eval_strategy", "no") == "no":
        message = "needs evaluations; set training.eval_strategy"
        yield document.problem("training.early_stopping_patience", message)


def _check_arguments(arguments: dict[str, Any], document: Document) -> Iterator[Problem]:
    """Report before loading what TrainingArguments would report after it."""
    for one, other in (("fp16", "bf16"), ("fp16_full_eval", "bf16_full_eval")):
        if arguments.get(one) and arguments.get(other):
            yield document.problem(f"training.{one}", f"not together with training.{other}; keep one of them")
    yield from _check_trackers(arguments, document)
    yield from _check_optimizer(arguments, document)
    scheduler = arguments.get("lr_scheduler_type")
    if scheduler in ("reduce_lr_on_plateau", "greedy") and arguments.get("eval_strategy", "no") == "no":
        message = f"{scheduler} needs evaluations; set training.eval_strategy"
        yield document.problem("training.lr_scheduler_type", message)
    for key in ("logging_steps", "eval_steps", "save_steps"):
        steps = arguments.get(key) or 0
        if steps > 1 and steps != int(steps):
            message = f"{steps} is not allowed; use a whole number of steps, or a share below 1"
            yield document.problem(f"training.{key}", message)


def _check_optimizer(arguments: dict[str, Any], document: Document) -> Iterator[Problem]:
    """Check what optimizers that inspect the model need in addition."""
    name = str(arguments.get("optim", ""))
    if name.startswith(("galore", "apollo")) and not arguments.get("optim_target_modules"):
        message = f"{name} needs training.optim_target_modules, the layers it works on: [attn, mlp], or all-linear"
        yield document.problem("training.optim", message)
    if name.endswith("layerwise") and arguments.get("gradient_accumulation_steps", 1) > 1:
        message = f"not with training.optim: {name}, which takes a step after every batch; set it to 1"
        yield document.problem("training.gradient_accumulation_steps", message)
    if not all("=" in pair for pair in str(arguments.get("optim_args") or "=").split(",")):
        yield document.problem("training.optim_args", "takes pairs joined by commas: beta1=0.9,beta2=0.95")
    if arguments.get("dataloader_prefetch_factor") and not arguments.get("dataloader_num_workers"):
        message = "needs training.dataloader_num_workers: 1 or more; leave it out"
        yield document.problem("training.dataloader_prefetch_factor", message)


def _check_trackers(arguments: dict[str, Any], document: Document) -> Iterator[Problem]:
    """Check that transformers knows every tracker; their requirements are checked with the machine."""
    written = as_list(arguments.get("report_to"))
    known = (*tracker_names(), *(("all", "none") if len(written) == 1 else ()))
    for name in written:
        if name is not None and name not in known:
            yield document.problem("training.report_to", f"no tracker called {name}{suggest(str(name), known)}")


def _check_strategies(arguments: dict[str, Any], document: Document) -> Iterator[Problem]:
    """Check that every checkpoint is evaluated, so that the best one can be found."""
    evaluate, save = arguments.get("eval_strategy", "no"), arguments.get("save_strategy", "no")
    if not arguments.get("load_best_model_at_end"):
        return
    path = "training.load_best_model_at_end"
    if evaluate == "no":
        yield document.problem(path, "needs evaluations; set training.eval_strategy, or false here")
    elif save not in (evaluate, "best"):
        message = f"needs save_strategy ({save}) equal to eval_strategy ({evaluate})"
        yield document.problem(path, message)
    elif evaluate == save == "steps":
        saving, evaluating = arguments["save_steps"], arguments["eval_steps"]
        ratio = saving / evaluating
        if (saving < 1) != (evaluating < 1) or abs(ratio - round(ratio)) > 1e-6 or ratio < 1:
            message = f"must be a multiple of eval_steps ({evaluating:g}), found {saving:g}"
            yield document.problem("training.save_steps", message)


def as_list(value: Any) -> list[Any]:
    """Wrap a single value in a list."""
    return value if isinstance(value, list) else [value]


def _check_hub(config: RunConfig, document: Document) -> Iterator[Problem]:
    """Check what is pushed, and where, before the run starts."""
    arguments = config.arguments
    if not arguments.get("push_to_hub"):
        return
    if (strategy := arguments.get("hub_strategy", "end")) != "end":
        message = (
            f"{strategy} is not done: final_model is pushed once it is proved, and checkpoints stay here; use end, or "
            "leave it out (training.hub_files names what is pushed besides)"
        )
        yield document.problem("training.hub_strategy", message)
    name = arguments.get("hub_model_id") or Path(config.training.output_dir).resolve().name
    if not _REPOSITORY.fullmatch(str(name)):
        message = f"{name!r} is not a valid repository name; set name, or owner/name"
        yield document.problem("training.hub_model_id", message)


def _check_processes(config: RunConfig, document: Document) -> Iterator[Problem]:
    """Check the run against the number of processes that it was started with."""
    if message := deepspeed_problem(config.arguments.get("deepspeed")):
        yield document.problem("training.deepspeed", message)
    elif names_optimizer(config.arguments) and config.training.head_learning_rate is not None:
        message = "not with a DeepSpeed file that names an optimizer, which has one learning rate; take its block out"
        yield document.problem("training.head_learning_rate", message)
    yield from _check_global_batch(config, document)
    if config.model.device_map is not None and count_launched() > 1:
        message = (
            f"not with {count_launched()} processes, each of which trains a copy on its own device; leave it out, or "
            "start one process"
        )
        yield document.problem("model.device_map", message)
    if (sharding := find_sharding(config.arguments)) is not None:
        yield from _check_sharding(config, sharding, document)


def _check_global_batch(config: RunConfig, document: Document) -> Iterator[Problem]:
    total = config.training.global_batch_size
    if total is None:
        return
    if getattr(config.training, "gradient_accumulation_steps", None) is not None:
        message = "follows from training.global_batch_size; keep one of them, or write null here"
        yield document.problem("training.gradient_accumulation_steps", message)
    ceiling = config.training.arguments.get("per_device_train_batch_size", DEFAULT_ROWS)
    if (uneven := division_problem(total, ceiling, count_launched())) is not None:
        yield document.problem("training.global_batch_size", uneven)


def _check_sharding(config: RunConfig, sharding: str, document: Document) -> Iterator[Problem]:
    """Check what is impossible while no process has all weights."""
    if reason := config.peft.LIMITS.sharding:
        yield document.problem("peft.method", f"{config.peft.method} not with {sharding}; {reason}")
    if config.model.quantization is not None and config.model.quantization.bits == 8:
        message = f"8 bits not with {sharding}, which cannot shard them; use 4 bits, or DDP"
        yield document.problem("model.quantization", message)
    evaluation = config.find_section(EvaluationSection)
    for key in ("at_end", "steps", "retention") if evaluation is not None else ():
        if getattr(evaluation, key):
            message = (
                f"not with {sharding}: a model whose weights are spread over processes does not write; set "
                f"evaluation.{key}: {'false' if key == 'at_end' else 'null'} and score the run by evaluate_model.py"
            )
            yield document.problem(f"evaluation.{key}", message)

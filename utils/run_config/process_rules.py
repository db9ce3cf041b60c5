"""What several processes cannot do, said before anything is loaded: by how the run was launched and what it asks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from utils.config.document import Document
from utils.config.sections.evaluation import EvaluationSection
from utils.config.sections.training import DEFAULT_ROWS
from utils.core.errors import Problem
from utils.trainer.global_batch import division_problem
from utils.trainer.launch import count_launched, deepspeed_problem, find_sharding, names_optimizer

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig


def check_processes(config: RunConfig, document: Document) -> Iterator[Problem]:
    """Check the run against the processes that it was started with, one where there is no launcher."""
    if message := deepspeed_problem(config.arguments.get("deepspeed")):
        yield _problem("training.deepspeed", message, document)
    elif names_optimizer(config.arguments) and config.training.head_learning_rate is not None:
        message = "not with a DeepSpeed file that names an optimizer, which has one learning rate; take its block out"
        yield _problem("training.head_learning_rate", message, document)
    yield from _check_global_batch(config, document)
    if config.model.device_map is not None and count_launched() > 1:
        message = (
            f"not with {count_launched()} processes, each of which trains a copy on its own device; leave it out, or "
            "start one process"
        )
        yield _problem("model.device_map", message, document)
    if (sharding := find_sharding(config.arguments)) is not None:
        yield from _check_sharding(config, sharding, document)


def _check_global_batch(config: RunConfig, document: Document) -> Iterator[Problem]:
    total = config.training.global_batch_size
    if total is None:
        return
    if getattr(config.training, "gradient_accumulation_steps", None) is not None:
        message = "follows from training.global_batch_size; keep one of them, or write null here"
        yield _problem("training.gradient_accumulation_steps", message, document)
    ceiling = config.training.arguments.get("per_device_train_batch_size", DEFAULT_ROWS)
    if (uneven := division_problem(total, ceiling, count_launched())) is not None:
        yield _problem("training.global_batch_size", uneven, document)


def _check_sharding(config: RunConfig, sharding: str, document: Document) -> Iterator[Problem]:
    """Check what cannot be done while no process holds all weights."""
    if reason := config.peft.LIMITS.sharding:
        yield _problem("peft.method", f"{config.peft.method} not with {sharding}; {reason}", document)
    if config.model.quantization is not None and config.model.quantization.bits == 8:
        message = f"8 bits not with {sharding}, which cannot cut them up; use 4 bits, or DDP"
        yield _problem("model.quantization", message, document)
    evaluation = config.find_section(EvaluationSection)
    for key in ("at_end", "steps") if evaluation is not None else ():
        if getattr(evaluation, key):
            message = (
                f"not with {sharding}: a model whose weights are spread over processes does not write; set "
                f"evaluation.{key}: {'false' if key == 'at_end' else 'null'} and score the run by evaluate_model.py"
            )
            yield _problem(f"evaluation.{key}", message, document)


def _problem(path: str, message: str, document: Document) -> Problem:
    return Problem(message, path, document.place_of(tuple(path.split("."))))

"""Check before training what can be tried without a model: the rows, and the settings of `training:`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from utils.core.errors import ConfigError, ModelError, Problem, UserError
from utils.tasks.task import load_task, open_task

if TYPE_CHECKING:
    from utils.config.run_config import RunConfig

_NUM_STEPS = 100
_ON_ALL_PROCESSES = ("deepspeed", "fsdp", "fsdp_config")
"""Not tried here: these make the process part of a distributed group."""


def check_rows(settings: RunConfig) -> tuple[list[Problem], list[str]]:
    """Read and encode a run's rows as training would, without a model; without a tokenizer, only read them.

    Returns:
        All problems, and warnings.
    """
    from utils.modeling.tokenizer import load_tokenizer

    task, warnings = open_task(settings), []
    try:
        tokenizer = load_tokenizer(settings.model)
    except ModelError as error:
        tokenizer = None
        warnings.append(f"rows are read but not encoded: {error}")
    try:
        if tokenizer is None:
            task.fingerprint_rows()
        else:
            task.prepare_data(tokenizer)
    except ConfigError as error:
        return settings.locate(error).problems, warnings
    except UserError as error:
        return [Problem(line) for line in str(error).splitlines()], warnings
    return [], warnings


def rehearse(config: RunConfig) -> None:
    """Build arguments, callbacks, optimizer and schedule for a one-weight model, to find early what they reject.

    Raises:
        ConfigError: The installed libraries, or this machine, do not support the settings.
    """
    import torch
    from accelerate.utils import TorchDynamoPlugin
    from torch.utils.checkpoint import checkpoint
    from transformers import Trainer, get_scheduler

    from utils.trainer.building import build_arguments
    from utils.trainer.callbacks import load_callbacks

    load_callbacks(config.training.callbacks)
    resolved = {name: value for name, value in config.arguments.items() if name not in _ON_ALL_PROCESSES}
    args: Any = build_arguments(replace(config, arguments=resolved), kind=load_task(config.task).arguments_class())
    if args.torch_compile:
        with _explain("accelerate refuses", "torch_compile_backend"):
            TorchDynamoPlugin(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
        with _explain("torch refuses", "torch_compile_mode"):
            torch.compile(torch.square, backend=args.torch_compile_backend, mode=args.torch_compile_mode)
    if not resolved.get("do_train", True):
        return
    weight = torch.nn.Parameter(torch.zeros(1, 1))
    _try_plugins(config, weight, args)
    schedule: dict[str, Any] = {"scheduler_specific_kwargs": args.lr_scheduler_kwargs or {}}
    plain = torch.optim.SGD([weight], lr=0.1)
    with _explain(f"{args.lr_scheduler_type.value} refuses", "lr_scheduler_kwargs"):
        get_scheduler(args.lr_scheduler_type, plain, args.get_warmup_steps(_NUM_STEPS), _NUM_STEPS, **schedule)
    if args.optim_target_modules is None and "lomo" not in args.optim:  # those inspect the model
        with _explain(f"{args.optim.value} refuses", "optim_args" if args.optim_args else "optim"):
            build, keys = Trainer.get_optimizer_cls_and_kwargs(args)
            _build_optimizer(build, weight, keys)
    if args.gradient_checkpointing and args.gradient_checkpointing_kwargs:
        with _explain("torch refuses", "gradient_checkpointing_kwargs"):
            checkpoint(torch.square, weight, **args.gradient_checkpointing_kwargs)


def _try_plugins(config: RunConfig, weight: Any, args: Any) -> None:
    """Build the optimizer and the schedule that are plug-ins, if any."""
    import torch

    optimizer: Any = torch.optim.SGD([weight], lr=0.1)
    if (found := config.training.find_plugin("optim")) is not None:
        with _explain(f"{config.arguments['optim']} refuses", "optim"):
            groups = [{"params": [weight], "weight_decay": args.weight_decay}]
            optimizer = found[0].build_optimizer(torch.nn.ParameterList([weight]), groups, args, found[1])
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise TypeError(f"build_optimizer returned {type(optimizer).__name__}, not a torch optimizer")
    if (found := config.training.find_plugin("lr_scheduler_type")) is not None:
        with _explain(f"{config.arguments['lr_scheduler_type']} refuses", "lr_scheduler_type"):
            schedule = found[0].build_schedule(optimizer, _NUM_STEPS, args, found[1])
            if not isinstance(schedule, torch.optim.lr_scheduler.LRScheduler):
                raise TypeError(f"build_schedule returned {type(schedule).__name__}, not a torch scheduler")


def _build_optimizer(build: Callable[..., Any], weight: Any, keys: dict[str, Any]) -> None:
    if isinstance(build, type):  # else it needs the whole model
        build([weight], **keys)


@contextmanager
def _explain(what: str, key: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        message = f"{what} these settings: {' '.join(str(error).split())}"
        raise ConfigError([Problem(message, f"training.{key}")]) from error

"""Load a checkpoint completely, or explain why not; its files are not trusted."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from utils.adapters.saved_adapter import require_every_tensor
from utils.adapters.training_hooks import TrainingHooks, load_training_state
from utils.core.errors import ModelError, UserError
from utils.core.library_errors import explain_library

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)

_FILES = ("model.safetensors", "model.safetensors.index.json")
_ANOTHER = "one of its files is damaged or of something else; resume another one: --resume checkpoint-N"


@contextmanager
def explain_checkpoint(checkpoint: str | None) -> Iterator[None]:
    """Turn errors of torch and transformers about a checkpoint's files into a UserError.

    Raises:
        UserError: Instead of the library's error, including that of torch's restricted reader about a pickle with code.
    """
    try:
        with explain_library(lambda line: UserError(f"{checkpoint}: cannot be resumed ({line}); {_ANOTHER}")):
            yield
    except (RuntimeError, KeyError) as error:  # from torch functions called directly
        raise UserError(f"{checkpoint}: cannot be resumed ({error}); {_ANOTHER}") from error


@contextmanager
def loading_states(trainer: Trainer, checkpoint: str | None) -> Iterator[None]:
    """Check loaded optimizer and scheduler states against this run's, and apply the run's own schedule.

    Raises:
        UserError: A file is damaged, or holds something else.
    """
    fresh = _describe_states(trainer)
    with explain_checkpoint(checkpoint):
        yield
    if checkpoint is not None:
        require_like(_describe_states(trainer), fresh, checkpoint)
        _follow_schedule(trainer.lr_scheduler, trainer.state.max_steps)


def _describe_states(trainer: Trainer) -> dict[str, Any]:
    """Return the states of optimizer and scheduler without the large tensors."""
    groups = getattr(trainer.optimizer, "param_groups", [])
    bare = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    schedule = trainer.lr_scheduler
    return {"optimizer": bare, "scheduler": schedule.state_dict() if hasattr(schedule, "state_dict") else {}}


def require_like(found: Any, fresh: Any, checkpoint: str, where: str = "") -> None:
    """Check that loaded states (nested mappings, lists and values) have the structure and types of fresh ones.

    Training would otherwise fail later with an unhelpful error.

    Raises:
        UserError: The structure or a type differs.
    """
    name = where or "its state"
    if isinstance(fresh, Mapping):
        if not isinstance(found, Mapping) or (missing := sorted(map(str, fresh.keys() - found.keys()))):
            lacks = f"lacks {missing[0]}" if isinstance(found, Mapping) else "is no mapping"
            raise UserError(f"{checkpoint}: cannot be resumed ({name} {lacks}); {_ANOTHER}")
        for key, value in fresh.items():
            require_like(found[key], value, checkpoint, f"{where}.{key}".lstrip("."))
    elif isinstance(fresh, list | tuple):
        if not isinstance(found, list | tuple) or len(found) != len(fresh):
            raise UserError(f"{checkpoint}: cannot be resumed ({name} is not a list of {len(fresh)}); {_ANOTHER}")
        for index, value in enumerate(fresh):
            require_like(found[index], value, checkpoint, f"{where}[{index}]")
    elif fresh is not None and not _is_alike(found, fresh):
        raise UserError(
            f"{checkpoint}: cannot be resumed ({name} is {type(found).__name__} {str(found)[:40]!r}, and was "
            f"{type(fresh).__name__}); {_ANOTHER}"
        )


def _is_alike(found: Any, fresh: Any) -> bool:
    if isinstance(fresh, bool) or not isinstance(fresh, int | float):
        return isinstance(found, type(fresh)) or (fresh is False and found is None)
    return isinstance(found, int | float) and not isinstance(found, bool)


def _follow_schedule(scheduler: Any, num_steps: int) -> None:
    """Recompute the learning rates at the current step by this run's schedule.

    The saved rates follow the run's length at that time: 0 at the end of a finished schedule.
    """
    schedule = getattr(scheduler, "scheduler", scheduler)  # inside DeepSpeed's wrapper
    if not isinstance(schedule, LambdaLR) or schedule.last_epoch < 1:
        return  # a schedule driven by the loss has no length
    before = schedule.get_last_lr()
    schedule.last_epoch -= 1
    schedule.step()  # repeat the step by the current schedule
    if (after := schedule.get_last_lr()) != before:
        message = "the learning rate continues at %.3g (step %d of the %d-step schedule); the checkpoint ended at %.3g"
        logger.info(message, after[0], schedule.last_epoch, num_steps, before[0])


def load_weights(model: Any, folder: Path, hooks: TrainingHooks) -> bool:
    """Load a checkpoint's weights into an unwrapped model if transformers would lose some.

    Returns:
        Whether they were loaded; False: transformers loads them completely.

    Raises:
        ModelError: The checkpoint lacks trained tensors, or has them in other shapes.
    """
    if not hasattr(model, "peft_config"):
        return load_plain_checkpoint(model, folder)
    if load_training_state(hooks, model, folder):
        return True
    require_every_tensor(model, folder, str(folder), "the adapter that is trained")
    return False


def load_plain_checkpoint(model: Any, folder: Path) -> bool:
    """Load a checkpoint of a model without an adapter if its file names tensors differently from the model.

    transformers' Trainer matches names only and leaves unmatched tensors unchanged: the experts of a mixture, one
    tensor in memory and many in the file, would keep the base's weights. Arguments, result and errors as for
    `load_weights`.
    """
    if not any((folder / name).is_file() for name in _FILES) or _has_same_names(model, folder):
        return False
    is_single = any(parameter.dtype == torch.float32 for parameter in model.parameters())
    loaded, info = type(model).from_pretrained(
        folder,
        dtype=torch.float32 if is_single else model.dtype,  # do not round float32 weights among bfloat16 ones
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    if missing := sorted({*info["missing_keys"], *(each[0] for each in info["mismatched_keys"])}):
        raise ModelError(f"{folder}: lacks {len(missing)} trained tensors such as {missing[0]}; take another one")
    model.load_state_dict(loaded.state_dict())
    return True


def _has_same_names(model: Any, folder: Path) -> bool:
    """Return whether a checkpoint is one file with a tensor for each of the model's; tied ones are stored once."""
    from safetensors import safe_open

    file = folder / _FILES[0]
    if not file.is_file():
        return False
    with safe_open(file, "pt") as tensors:
        stored = set(tensors.keys())
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return set(model.state_dict()) - tied <= stored

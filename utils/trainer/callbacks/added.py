"""The callbacks that both trainers get: progress, early stopping, and those that the user names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback

from utils.core.errors import ConfigError, Problem
from utils.trainer.callbacks.progress import ProgressCallback

if TYPE_CHECKING:
    from utils.config.sections.training import OwnTrainingSection

_KEY = "training.callbacks"


def add_callbacks(trainer: Trainer, section: OwnTrainingSection) -> None:
    """Add the callbacks that a run's `training:` section asks for; ours take the place of transformers' printer.

    Raises:
        ConfigError: A callback of the user's cannot be had.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressCallback())
    if section.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(section.early_stopping_patience, section.early_stopping_threshold))
    for callback in load_callbacks(section.callbacks):
        trainer.add_callback(callback)


def load_callbacks(names: Sequence[str]) -> list[TrainerCallback]:
    """Import the user's callbacks, looked for in the working directory too, and make one of each.

    Args:
        names: `module:Class` each.

    Raises:
        ConfigError: There is no such module or class, or it is no callback.
    """
    if names and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    return [_load(name) for name in names]


def _load(name: str) -> TrainerCallback:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError([Problem(f"{module} needs {error.name}, which is not installed", _KEY)]) from error
        message = f"there is no module {module}, neither installed nor in the working directory"
        raise ConfigError([Problem(message, _KEY)]) from error
    except AttributeError as error:
        raise ConfigError([Problem(f"{module} has no {attribute}", _KEY)]) from error
    if not (isinstance(found, type) and issubclass(found, TrainerCallback)):
        raise ConfigError([Problem(f"{name} is no subclass of transformers.TrainerCallback", _KEY)])
    return found()

"""The callbacks that both trainers get: progress, early stopping, and those that the user names."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from utils.core.errors import ConfigError, Problem
from utils.trainer.callbacks.progress import ProgressCallback

if TYPE_CHECKING:
    from utils.config.sections.training import OwnTrainingSection

_KEY = "training.callbacks"
logger = logging.getLogger(__name__)


class EarlyStoppingCallback(transformers.EarlyStoppingCallback):  # type: ignore[misc]  # its name is in checkpoints
    """Stops when the metric of the best checkpoint gets no better, whichever evaluation measures it."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn where the best weights are not loaded; evaluations of what a model writes need no `eval_strategy`."""
        if args.eval_strategy != "no":
            super().on_train_begin(args, state, control, **kwargs)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Count an evaluation that measures the metric; others are passed over."""
        name = str(args.metric_for_best_model).removeprefix("eval_")
        if f"eval_{name}" not in (metrics or {}):
            return
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if self.is_at_its_end:
            count = self.early_stopping_patience_counter
            logger.info("step %d: %s has not got better for %d evaluations; training ends",
                        state.global_step, name, count)  # fmt: skip

    @property
    def is_at_its_end(self) -> bool:
        """Whether its patience is."""
        return bool(self.early_stopping_patience_counter >= self.early_stopping_patience)

    def count_again(
        self, section: OwnTrainingSection, args: TrainingArguments, state: TrainerState, scores: Sequence[float]
    ) -> bool:
        """Count the evaluations of earlier sessions anew, by the settings of now; tell whether training is to end."""
        assert section.early_stopping_patience is not None, "without it there is no such callback"
        self.early_stopping_patience = section.early_stopping_patience
        self.early_stopping_threshold = section.early_stopping_threshold
        self.early_stopping_patience_counter = 0
        better = max if args.greater_is_better else min
        for score in scores:
            self.check_metric_value(args, state, None, score)
            state.best_metric = score if state.best_metric is None else better(score, state.best_metric)
        return self.is_at_its_end


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

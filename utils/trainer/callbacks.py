"""The callbacks of every run: the trainer's own, progress, early stopping, the loss watch, the user's."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any, Literal

import transformers
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from utils.config.sections.training import OwnTrainingSection
from utils.core.errors import ConfigError, LoraNsError, Problem, UserError
from utils.core.library_errors import describe
from utils.core.registry import explain_added, find_line
from utils.trainer.progress import ProgressCallback
from utils.trainer.watchdogs import has_overflowed, try_longest_batch

logger = logging.getLogger(__name__)

TIMES_THE_MEDIAN = 3.0
IN_A_ROW = 5
WINDOW = 50
_KEY = "training.callbacks"


class DivergedError(LoraNsError):
    """The loss has diverged."""


def add_callbacks(trainer: Trainer, section: OwnTrainingSection) -> None:
    """Add the callbacks of a run's `training:` section; a progress callback replaces transformers' printer.

    Raises:
        ConfigError: A callback of the user's cannot be loaded.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressCallback())
    if section.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(section.early_stopping_patience, section.early_stopping_threshold))
    for callback in load_callbacks(section.callbacks):
        trainer.add_callback(callback)
    trainer.add_callback(LossWatch(section.on_divergence))


def load_callbacks(names: Sequence[str]) -> list[TrainerCallback]:
    """Import the user's callbacks, each `module:Class`, also from the working directory, and instantiate them.

    Raises:
        ConfigError: There is no such module or class, or the class is not a callback.
    """
    if names and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    return [_load(name) for name in names]


def _load(name: str) -> TrainerCallback:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # whatever the user's code raises on import
        raise ConfigError([Problem(f"{module} cannot be imported: {_describe_line(error)}", _KEY)]) from error
    if found is None:
        raise ConfigError([Problem(f"{module} has no {attribute}", _KEY)])
    if not (isinstance(found, type) and issubclass(found, TrainerCallback)):
        raise ConfigError([Problem(f"{name} is not a subclass of transformers.TrainerCallback", _KEY)])
    try:
        created: TrainerCallback = found()
    except Exception as error:  # whatever the user's code raises
        message = f"{name} cannot be created without arguments: {_describe_line(error)}"
        raise ConfigError([Problem(message, _KEY)]) from error
    for event in [each for each in dir(TrainerCallback) if each.startswith("on_")]:
        setattr(created, event, _guard(getattr(created, event), f"{name}, {event}", Path(inspect.getfile(found))))
    return created


def _guard(event: Callable[..., Any], name: str, file: Path) -> Callable[..., Any]:
    """Explain what a user's event raises or returns, and undo a change of the folder, where relative paths start."""

    @wraps(event)
    def call(*args: Any, **kwargs: Any) -> TrainerControl | None:
        folder = Path.cwd()
        try:
            result = event(*args, **kwargs)
        except (KeyboardInterrupt, SystemExit, LoraNsError):
            raise
        except BaseException as error:
            if (place := find_line(error, file)) is None:
                raise
            raise UserError(f"{_KEY}: {name}: {place}: {describe(error)}") from error
        finally:
            os.chdir(folder)
        if not (result is None or isinstance(result, TrainerControl)):
            raise UserError(f"{_KEY}: {name} returned {result!r:.80}; return the control, or nothing")
        return result

    return call


def _describe_line(error: Exception) -> str:
    if (explained := explain_added(error)) is not None:
        return str(explained)
    place = find_line(error, Path.cwd())
    return f"{place}: {describe(error)}" if place else describe(error)


class EarlyStoppingCallback(transformers.EarlyStoppingCallback):  # its name is in checkpoints
    """Stops when the metric of the best checkpoint stops improving, whichever evaluation measures it."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn if the best weights are not loaded; evaluations by generating need no `eval_strategy`."""
        if args.eval_strategy != "no":
            super().on_train_begin(args, state, control, **kwargs)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Count an evaluation that measures the metric; ignore others."""
        name = str(args.metric_for_best_model).removeprefix("eval_")
        if f"eval_{name}" not in (metrics or {}):
            return
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if self.is_exhausted:
            count = self.early_stopping_patience_counter
            logger.info("step %d: %s has not improved for %d evaluations; training ends",
                        state.global_step, name, count)  # fmt: skip

    @property
    def is_exhausted(self) -> bool:
        """Whether its patience is exhausted."""
        return bool(self.early_stopping_patience_counter >= self.early_stopping_patience)

    def recount(
        self, section: OwnTrainingSection, args: TrainingArguments, state: TrainerState, scores: Sequence[float]
    ) -> bool:
        """Recount the evaluations of earlier sessions with the current settings; return whether to stop training."""
        assert section.early_stopping_patience is not None, "without it there is no such callback"
        self.early_stopping_patience = section.early_stopping_patience
        self.early_stopping_threshold = section.early_stopping_threshold
        self.early_stopping_patience_counter = 0
        better = max if args.greater_is_better else min
        for score in scores:
            self.check_metric_value(args, state, None, score)
            state.best_metric = score if state.best_metric is None else better(score, state.best_metric)
        return self.is_exhausted


def find_divergence(losses: Sequence[float]) -> float | None:
    """Return the median that the last losses have left behind; None: the loss has not diverged.

    It has if each of the last five losses is more than three times the median of the (up to 50) before them, and more
    than the very first loss: a small loss may fluctuate without diverging.
    """
    before, last = losses[-IN_A_ROW - WINDOW : -IN_A_ROW], losses[-IN_A_ROW:]
    if len(before) < IN_A_ROW:
        return None
    middle = median(before)
    return middle if min(last) > max(TIMES_THE_MEDIAN * middle, losses[0]) else None


class LossWatch(TrainerCallback):
    """Warns once of a diverging loss, or stops the run, and once of a loss of exactly 0."""

    def __init__(self, on_divergence: Literal["warn", "stop"]) -> None:
        self._on_divergence = on_divergence
        self._warned: set[str] = set()

    def on_log(self, args: Any, state: TrainerState, *_: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Check the newest training loss.

        Raises:
            DivergedError: It has diverged, and `on_divergence` is `stop`.
        """
        if not logs or "loss" not in logs:
            return
        if logs["loss"] == 0.0:
            self._warn_once(
                "zero",
                f"step {state.global_step}: the training loss is exactly 0: no token is trained on (see --preview), or "
                "all of them are predicted perfectly",
            )
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        if (middle := find_divergence(losses)) is not None:
            text = (
                f"step {state.global_step}: the training loss is {logs['loss']:.4g}, and has been more than "
                f"{TIMES_THE_MEDIAN:g} times {middle:.4g}, the median before, for {IN_A_ROW} logged steps; "
                "a smaller training.learning_rate or more training.warmup_steps help"
            )
            if self._on_divergence == "stop":
                raise DivergedError(f"{text} (training.on_divergence: stop)")
            self._warn_once("diverges", text)

    def _warn_once(self, what: str, text: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("%s", text)


class RunEvents(TrainerCallback):
    """Forwards the events of a run to its trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Try the longest batch, so that memory runs out now or never; then resume where the checkpoint was written."""
        if state.global_step < state.max_steps:
            try_longest_batch(self._trainer, kwargs["train_dataloader"], self._trainer.try_longest)
        self._trainer.resume.restore_session(self._trainer)

    def on_step_begin(self, *_: Any, **kwargs: Any) -> None:
        """Mark that an epoch is being trained, and start counting the batches of its step."""
        self._trainer.epoch_ended = False
        self._trainer.guard.batches_of_step = 0

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Call the method's hook while the gradients exist; a step with overflowed gradients was skipped."""
        model = kwargs["model"]
        if not (args.fp16 and has_overflowed(model)):
            self._trainer.hooks.after_optimizer_step(model, state.global_step + 1)  # counted after this event

    def on_step_end(self, _: Any, state: TrainerState, *__: Any, **kwargs: Any) -> None:
        """Notify the method when the learning rate restarts; the step's checkpoint is written after it."""
        if state.global_step in self._trainer.restarts:
            model = self._trainer.accelerator.unwrap_model(self._trainer.model)
            optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])  # accelerate wraps it
            self._trainer.hooks.on_learning_rate_restart(model, optimizer, state.global_step)

    def on_epoch_end(self, *_: Any, **kwargs: Any) -> None:
        """Mark that the epoch has ended."""
        self._trainer.epoch_ended = True

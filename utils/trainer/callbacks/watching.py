"""Watches the logged losses: one that runs away, and one that is exactly 0."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from statistics import median
from typing import Any, Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from utils.core.errors import LoraNsError

logger = logging.getLogger(__name__)

TIMES_THE_MEDIAN = 3.0
IN_A_ROW = 5
WINDOW = 50


class DivergedError(LoraNsError):
    """The loss has run away."""


def find_divergence(losses: Sequence[float]) -> float | None:
    """Give the median that the last losses have left behind; None: they have not run away.

    They have where each of the last five is more than three times the median of the (up to 50) before them, and more
    than the first loss of all: a loss that was small may jump about without being lost.

    Args:
        losses: In order, as logged.
    """
    before, last = losses[-IN_A_ROW - WINDOW : -IN_A_ROW], losses[-IN_A_ROW:]
    if len(before) < IN_A_ROW:
        return None
    middle = median(before)
    return middle if min(last) > max(TIMES_THE_MEDIAN * middle, losses[0]) else None


class LossWatch(TrainerCallback):
    """Warns once of a loss that diverges, or stops the run, and once of a loss of exactly 0.

    Args:
        on_divergence: `warn` or `stop`.
    """

    def __init__(self, on_divergence: Literal["warn", "stop"]) -> None:
        self._on_divergence = on_divergence
        self._told: set[str] = set()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Look at the newest training loss.

        Raises:
            DivergedError: It has run away, and the run is to stop then.
        """
        if not logs or "loss" not in logs:
            return
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        if logs["loss"] == 0.0:
            self._tell(
                "zero",
                f"step {state.global_step}: the training loss is exactly 0: no token is trained on (see --preview), or "
                "all of them are known by heart",
            )
        if (middle := find_divergence(losses)) is not None:
            text = (
                f"step {state.global_step}: the training loss is {logs['loss']:.4g}, and has been more than "
                f"{TIMES_THE_MEDIAN:g} times {middle:.4g}, the median before, for {IN_A_ROW} logged steps; "
                "a smaller training.learning_rate or more training.warmup_steps help"
            )
            if self._on_divergence == "stop":
                raise DivergedError(f"{text} (training.on_divergence: stop)")
            self._tell("diverges", text)

    def _tell(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            logger.warning("%s", text)

"""The progress of training: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from utils.core.terminal import build_console


class ProgressCallback(TrainerCallback):
    """Shows step, loss, learning rate, tokens per second and the time left; only on the main process."""

    def __init__(self) -> None:
        self._console = build_console(stderr=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._start = 0.0
        self._start_step = 0
        self._start_tokens = 0
        self._last: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say where a resumed run goes on, and open the live line."""
        if state.is_world_process_zero and state.global_step:
            self._say(f"goes on at step {state.global_step + 1} of {state.max_steps}")
        self._start, self._start_step, self._start_tokens = (
            time.monotonic(),
            state.global_step,
            state.num_input_tokens_seen,
        )
        if state.is_world_process_zero and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("training", total=state.max_steps, completed=state.global_step, numbers="")
            self._bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step, numbers=self._numbers(state))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the newest loss, or the scores of an evaluation."""
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            self._last = logs
            if self._bar is None:
                self._say(
                    f"step {state.global_step}/{state.max_steps}  {self._numbers(state)}  {self._time_left(state)}"
                )
        elif any(key.startswith("eval_") for key in logs):
            self._say(f"step {state.global_step}/{state.max_steps}  evaluation: {_scores(logs)}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the live line."""
        self.close()

    def close(self) -> None:
        """Give the terminal back; also after a failure."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def _numbers(self, state: TrainerState) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = (state.num_input_tokens_seen - self._start_tokens) / elapsed
        shown = [f"loss {self._last['loss']:.4f}"] if "loss" in self._last else []
        shown += [f"lr {self._last['learning_rate']:.2e}"] if "learning_rate" in self._last else []
        return "  ".join([*shown, f"{rate:,.0f} tokens/s"])

    def _time_left(self, state: TrainerState) -> str:
        done = state.global_step - self._start_step
        seconds = (time.monotonic() - self._start) / max(done, 1) * (state.max_steps - state.global_step)
        return f"eta {int(seconds) // 60}:{int(seconds) % 60:02d}"


def _scores(logs: dict[str, float]) -> str:
    skipped = ("runtime", "per_second", "samples", "preparation_time")
    kept = {key.removeprefix("eval_"): value for key, value in logs.items() if key.startswith("eval_")}
    return "  ".join(f"{key} {value:.4f}" for key, value in kept.items() if not key.endswith(skipped))

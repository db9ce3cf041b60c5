"""Show and measure a training: a live progress line, peak memory, the time to the first step."""

from __future__ import annotations

import resource
import sys
import time
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerState

from utils.core.progress import build_bar, format_duration, shows_bars
from utils.core.terminal import build_console

if TYPE_CHECKING:
    from rich.progress import Progress
    from transformers import Trainer

GIB = 1024**3
_NOT_SCORES = ("runtime", "per_second", "samples", "preparation_time")


class ProgressCallback(TrainerCallback):
    """Shows step, loss, learning rate, tokens per second and remaining time, on the main process only.

    A terminal gets a live line, other outputs get plain lines.
    """

    def __init__(self) -> None:
        self._console = build_console(stderr=True)
        self._bar: Progress | None = None
        self._task: Any = None
        self._evaluation: Any = None
        self._start = 0.0
        self._start_step = 0
        self._start_tokens = 0
        self._last: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Report where a resumed run continues, and open the live line."""
        self._start, self._start_step = time.monotonic(), state.global_step
        self._start_tokens = state.num_input_tokens_seen
        if not state.is_world_process_zero:
            return
        if state.global_step:
            self._say(f"continues at step {state.global_step + 1} of {state.max_steps}")
        if bar := self._open_bar():
            self._task = bar.add_task("training", total=state.max_steps, completed=state.global_step, numbers="")

    def on_step_end(self, args: Any, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Advance the bar."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=state.global_step, numbers=self._numbers(state))

    def on_log(self, args: Any, state: TrainerState, *_: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Show the newest loss, or the scores of an evaluation."""
        if not state.is_world_process_zero or not logs:
            return
        step = f"step {state.global_step}/{state.max_steps}"
        if "loss" in logs:
            self._last = logs
            if self._bar is None:
                self._say(f"{step}  {self._numbers(state)}  {self._time_left(state)}")
        elif any(key.startswith("eval_") for key in logs):
            self._say(f"{step}  evaluation: {_format_scores(logs)}")

    def on_prediction_step(
        self, args: Any, state: TrainerState, *_: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Advance the evaluation's line, below that of training."""
        if state.is_world_process_zero and hasattr(eval_dataloader, "__len__") and (bar := self._open_bar()):
            if self._evaluation is None:
                self._evaluation = bar.add_task("evaluating", total=len(eval_dataloader), numbers="")
            bar.advance(self._evaluation)

    def on_evaluate(self, *_: Any, **kwargs: Any) -> None:
        """Remove the evaluation's line."""
        if self._bar is not None and self._evaluation is not None:
            self._bar.remove_task(self._evaluation)
            self._evaluation = None
            if self._task is None:
                self.close()

    def on_predict(self, *_: Any, **kwargs: Any) -> None:
        """Remove the evaluation's line."""
        self.on_evaluate()

    def on_train_end(self, *_: Any, **kwargs: Any) -> None:
        """Close the live line."""
        self.close()

    def close(self) -> None:
        """Restore the terminal, also after a failure."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = self._evaluation = None

    def _open_bar(self) -> Progress | None:
        if self._bar is None and shows_bars():
            self._bar = build_bar()
            self._bar.start()
        return self._bar

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
        return f"eta {format_duration(seconds)}"


def _format_scores(logs: dict[str, float]) -> str:
    kept = {key.removeprefix("eval_"): value for key, value in logs.items() if key.startswith("eval_")}
    return "  ".join(f"{key} {value:.4f}" for key, value in kept.items() if not key.endswith(_NOT_SCORES))


class MeasuringCallback(TrainerCallback):
    """Measures peak memory from just before training, and the time to the first optimizer step.

    `started` is the value of `time.monotonic()` at the command's start.
    """

    def __init__(self, started: float) -> None:
        self._started = started
        self.time_to_first_step_s: float | None = None
        self.resumed_from_step = 0
        self._tokens_before = 0
        self.adapter_facts: dict[str, Any] = {}
        """The adapter's own measurements, if its model has a method `report_training`."""

    def on_train_begin(self, args: Any, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Reset the peaks, which loading has raised, and note what an earlier session counted."""
        self.resumed_from_step, self._tokens_before = state.global_step, state.num_input_tokens_seen
        for device in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
            torch.cuda.reset_peak_memory_stats(device)

    def on_step_end(self, args: Any, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Note when the first step of this process ended."""
        if self.time_to_first_step_s is None:
            self.time_to_first_step_s = time.monotonic() - self._started

    def on_train_end(self, *_: Any, **kwargs: Any) -> None:
        """Ask the adapter for its measurements."""
        tuner = getattr(kwargs.get("model"), "base_model", None)
        if (report := getattr(tuner, "report_training", None)) is not None:
            self.adapter_facts = report()

    def count_tokens(self, state: TrainerState) -> int:
        """Count the real tokens trained on in this session."""
        return int(state.num_input_tokens_seen - self._tokens_before)

    def read_memory(self) -> dict[str, Any]:
        """Return the peaks in GiB, without those that this machine cannot measure.

        `peak_rss_gb` is the peak resident set of the whole process, loading included.
        """
        scale = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / GIB
        if not torch.cuda.is_initialized():
            return {"device": "cpu", "peak_rss_gb": rss}
        devices = range(torch.cuda.device_count())
        return {
            "device": "cuda",
            "peak_vram_gb": max(torch.cuda.max_memory_allocated(device) for device in devices) / GIB,
            "peak_vram_reserved_gb": max(torch.cuda.max_memory_reserved(device) for device in devices) / GIB,
            "peak_rss_gb": rss,
        }


def measure_training(trainer: Trainer, started: float, profile: bool) -> MeasuringCallback:
    """Add measuring to the trainer, and with `profile` profiling; `started` as for the callback."""
    trainer.add_callback(measuring := MeasuringCallback(started))
    if profile:
        from utils.trainer.profiling import ProfilingCallback

        trainer.add_callback(ProfilingCallback(trainer))
    return measuring

"""Profile a training: a table of its time by part, and a trace of a few steps."""

from __future__ import annotations

import functools
import gzip
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState

from utils.core.terminal import build_console
from utils.results.json_file import write_json

FOLDER = "profile"
_METHODS = {
    "data": ("get_batch_samples",),
    "generation": ("_generate_and_score_completions",),
    "forward": ("compute_loss",),
    "optimizer": ("_get_grad_norm", "_clip_grad_norm"),
    "evaluation": ("_evaluate",),
    "saving": ("_save_checkpoint",),
}
"""The Trainer's methods by part; accelerate's `backward` and the optimizer's `step` are added."""
_TRACED = range(3, 6)
"""Traced steps of this session; the first two are not representative."""
_HINTS = {
    "data": (0.1, "rows come too slowly: raise training.dataloader_num_workers"),
    "evaluation": (0.3, "evaluate less often: training.eval_steps or evaluation.steps, or on fewer rows"),
    "saving": (0.1, "save less often: training.save_steps, or training.save_only_model: true"),
    "optimizer": (0.25, "steps are short compared with the optimizer's: raise training.per_device_train_batch_size"),
    "generation": (0.6, "answers take most of the time: a server writes them faster (docs/serving.md)"),
    "other": (0.25, "steps are short compared with the overhead: raise training.per_device_train_batch_size"),
}
"""Share of the time from which a part gets a hint, and the hint."""


class ProfilingCallback(TrainerCallback):
    """Times the parts of a training, prints them at its end, and writes them with a trace to the run's folder.

    A nested part counts for the outer one only: forward passes of an evaluation are evaluation. The GPU is synchronized
    at every boundary, which costs some overlap.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._seconds: dict[str, float] = defaultdict(float)
        self._is_inside = False
        self._begin = 0.0
        self._num_steps = 0
        self._trace: Any = None
        for part, names in _METHODS.items():
            for name in names:
                if hasattr(trainer, name):
                    setattr(trainer, name, self._timed(part, getattr(trainer, name)))
        trainer.accelerator.backward = self._timed("backward", trainer.accelerator.backward)

    def on_train_begin(self, args: Any, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Start the clock."""
        optimizer = kwargs["optimizer"]
        optimizer.step = self._timed("optimizer", optimizer.step)
        self._begin = self._now()

    def on_step_begin(self, *_: Any, **kwargs: Any) -> None:
        """Trace a few steps."""
        self._num_steps += 1
        if self._num_steps == _TRACED.start and self._trainer.is_world_process_zero():
            self._trace = torch.profiler.profile()
            self._trace.start()

    def on_step_end(self, *_: Any, **kwargs: Any) -> None:
        """Write the trace after its last step."""
        if self._trace is not None and self._num_steps == _TRACED[-1]:
            self._end_trace()

    def on_train_end(self, args: Any, state: TrainerState, *_: Any, **kwargs: Any) -> None:
        """Print and write where the time went."""
        total = self._now() - self._begin
        if self._trace is not None:
            self._end_trace()
        if not state.is_world_process_zero:
            return
        parts = {part: self._seconds[part] for part in (*_METHODS, "backward") if self._seconds[part]}
        parts["other"] = max(0.0, total - sum(parts.values()))
        write_json(self._folder() / "parts.json", {"seconds": parts, "total_s": total, "steps": self._num_steps})
        _print_parts(parts, total, self._num_steps, self._folder())

    def _end_trace(self) -> None:
        trace, self._trace = self._trace, None
        trace.stop()
        plain = self._folder() / "trace.json"
        trace.export_chrome_trace(str(plain))
        with plain.open("rb") as read, gzip.open(f"{plain}.gz", "wb") as written:
            shutil.copyfileobj(read, written)
        plain.unlink()

    def _folder(self) -> Path:
        folder = Path(self._trainer.args.output_dir) / FOLDER
        folder.mkdir(exist_ok=True)
        return folder

    def _timed(self, part: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._is_inside:
                return method(*args, **kwargs)
            self._is_inside, start = True, self._now()
            try:
                return method(*args, **kwargs)
            finally:
                self._seconds[part] += self._now() - start
                self._is_inside = False

        return timed

    @staticmethod
    def _now() -> float:
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        return time.perf_counter()


def _print_parts(parts: dict[str, float], total: float, num_steps: int, folder: Path) -> None:
    from rich import box
    from rich.table import Table

    table = Table(title="Where the time goes", title_justify="left", box=box.SIMPLE, pad_edge=False)
    for heading in ("Part", "Seconds", "Share", "ms a step"):
        table.add_column(heading, justify="left" if heading == "Part" else "right")
    for part, seconds in sorted(parts.items(), key=lambda each: -each[1]):
        table.add_row(part, f"{seconds:.2f}", f"{seconds / total:.0%}", f"{1000 * seconds / max(num_steps, 1):.1f}")
    console = build_console()
    console.print(table)
    for part, (share, hint) in _HINTS.items():
        if parts.get(part, 0.0) > share * total:
            console.print(f"{part} takes {parts[part] / total:.0%}: {hint}")
    console.print(f"Trace: {folder / 'trace.json.gz'}, for ui.perfetto.dev", soft_wrap=True)

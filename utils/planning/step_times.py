"""A callback that records the end of each step, from which a plan computes a run's speed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments

from utils.results.json_file import write_json

FILE = "step_times.json"


class StepTimes(TrainerCallback):
    """Writes the seconds and tokens at the end of each step to the run's folder."""

    def __init__(self) -> None:
        self._steps: list[tuple[float, int]] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Record the end of a step."""
        self._steps.append((time.monotonic(), int(state.num_input_tokens_seen)))

    def on_train_end(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        """Write the record."""
        write_json(Path(str(args.output_dir)) / FILE, {"steps": self._steps})

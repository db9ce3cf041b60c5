"""A schedule with restarts: a warm-up after each restart, and one decay at the end of the run.

For methods that change the adapter in mid-training, such as ReLoRA (Lialin et al. 2023, arXiv:2307.05695), in their
`on_learning_rate_restart` hook.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from utils.config.section import Section
from utils.core.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments


class Config(Section):
    """Fields that `lr_scheduler_type: restarts` adds to `training:`; the first warm-up is warmup_steps."""

    restart_every: float = Field(0.25, gt=0)
    """lr_scheduler_type: restarts: optimizer steps between restarts, or below 1 as a share of the run."""
    restart_warmup_steps: float = Field(0.02, ge=0)
    """lr_scheduler_type: restarts: warm-up steps after a restart, or below 1 as a share of the run."""
    restart_decay: float = Field(0.1, ge=0)
    """lr_scheduler_type: restarts: steps of the final decay to 0, or below 1 as a share of the run."""
    restart_shape: Literal["constant", "cosine"] = "constant"
    """lr_scheduler_type: restarts: shape of the rate between warm-ups and decay. cosine: it falls to a tenth over the
    run."""

    @model_validator(mode="after")
    def _check_steps(self) -> Config:
        for name in ("restart_every", "restart_warmup_steps", "restart_decay"):
            value = getattr(self, name)
            if value > 1 and value != int(value):
                raise ValueError(f"{name}: {value} is not allowed; use a whole number of steps, or a share below 1")
        same_unit = (self.restart_every < 1) == (self.restart_warmup_steps < 1)
        if same_unit and self.restart_warmup_steps >= self.restart_every:
            raise ValueError("restart_warmup_steps: has to be below restart_every, or the rate never comes up again")
        return self


def list_restarts(num_training_steps: int, config: Config) -> list[int]:
    """Return the optimizer steps before which the rate restarts; none is within the last decay."""
    every = count_steps(config.restart_every, num_training_steps)
    end = num_training_steps - count_steps(config.restart_decay, num_training_steps)
    return list(range(every, end, every))


def count_steps(value: float, num_training_steps: int) -> int:
    """Convert a number of steps, or below 1 a share of the run, to steps; a share is at least one step."""
    return int(value) if value >= 1 or value == 0 else max(1, round(value * num_training_steps))


def describe(num_training_steps: int, config: Config) -> str:
    """Describe in a sentence where the rate restarts."""
    steps = list_restarts(num_training_steps, config)
    decay = count_steps(config.restart_decay, num_training_steps)
    shown = ", ".join(map(str, steps[:8])) + (f" and {len(steps) - 8} more" if len(steps) > 8 else "")
    warmup = count_steps(config.restart_warmup_steps, num_training_steps)
    return f"restarts after step {shown or 'none'}, each with {warmup} steps of warm-up; the last {decay} steps decay"


def build_schedule(
    optimizer: torch.optim.Optimizer, num_training_steps: int, args: TrainingArguments, config: Config
) -> torch.optim.lr_scheduler.LRScheduler:
    """Build the schedule of a run of `num_training_steps` optimizer steps."""
    from torch.optim.lr_scheduler import LambdaLR

    first = args.get_warmup_steps(num_training_steps)
    warmup = count_steps(config.restart_warmup_steps, num_training_steps)
    decay = count_steps(config.restart_decay, num_training_steps)
    restarts = list_restarts(num_training_steps, config)
    if restarts and warmup >= restarts[0]:
        raise ConfigError(
            f"training.restart_every: {restarts[0]} steps of this run, and as many of warm-up; lower "
            "restart_warmup_steps, or restart less often"
        )

    def factor(step: int) -> float:
        last = max((each for each in restarts if each <= step), default=0)
        length = warmup if last else first
        rise = min(1.0, (step - last) / length) if length else 1.0
        fall = min(1.0, (num_training_steps - step) / decay) if decay else 1.0
        done = min(1.0, step / max(1, num_training_steps))
        shape = 0.55 + 0.45 * math.cos(math.pi * done) if config.restart_shape == "cosine" else 1.0
        return max(0.0, rise * fall * shape)

    return LambdaLR(optimizer, factor)

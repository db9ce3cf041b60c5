"""Stop a run at numbers that are not finite, naming step and rows, and try the longest batch before the first step."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import torch

from utils.core.errors import LoraNsError
from utils.core.texts import shorten
from utils.generation.model_state import keep_random_state

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import DataLoader
    from transformers import Trainer

_SKIPPED_STEPS = 25
"""Consecutive steps that a gradient scaler may skip while searching for its scale; fp16 only."""
_SHOWN_ROWS = 16


class NotFiniteError(LoraNsError):
    """A loss, a gradient or a weight is not finite."""


def require_finite_weights(trainer: Trainer) -> None:
    """Check that trained weights are finite before they are saved.

    Raises:
        NotFiniteError: A weight is not finite.
    """
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad and not bool(parameter.isfinite().all()):
            raise NotFiniteError(
                f"step {trainer.state.global_step}: the trained weight {name} is no longer finite, so no checkpoint "
                "is written of it; the learning rate is too large: lower training.learning_rate and start over"
            )


def has_overflowed(model: nn.Module) -> bool:
    """Return whether a gradient is not finite."""
    grads = [part.grad for part in model.parameters() if part.grad is not None]
    return not all(bool(torch.isfinite(grad).all()) for grad in grads)


class NanGuard:
    """Prevents optimizer steps with a loss or gradient that is not finite."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.epoch_start = 0
        """Batches per process before the current epoch, as if each step had all of its batches."""
        self.batches_of_step = 0
        self._skipped = 0

    def check_loss(self, loss: torch.Tensor) -> None:
        """Count a batch, and check its loss.

        Raises:
            NotFiniteError: The loss is nan or infinite.
        """
        self.batches_of_step += 1
        if not math.isfinite(value := float(loss)):
            raise NotFiniteError(self._explain(f"the loss is {value}"))

    def check_norm(self, norm: torch.Tensor | float | None) -> None:
        """Check the gradients of a step.

        Raises:
            NotFiniteError: Their norm is nan or infinite, and no gradient scaler skips the step.
        """
        if norm is None or math.isfinite(float(norm)):
            self._skipped = 0
            return
        self._skipped += 1
        allowed = _SKIPPED_STEPS if getattr(self._trainer.accelerator, "scaler", None) is not None else 0
        if self._skipped > allowed:  # a scaler that finds no scale at all
            raise NotFiniteError(self._explain(f"the gradient's norm is {float(norm)}"))

    def _explain(self, found: str) -> str:
        trainer, rows = self._trainer, self._find_rows()
        shown = ", ".join(map(str, rows[:_SHOWN_ROWS])) + (" ..." if len(rows) > _SHOWN_ROWS else "")
        text = f"; the first: {_show_row(trainer, rows[0])!r}" if rows else ""
        broken = next((name for name, p in trainer.model.named_parameters() if not bool(p.isfinite().all())), None)
        reason = f"the weight {broken} is not finite" if broken else "the weights themselves are finite"
        return (
            f"step {trainer.state.global_step + 1}: {found}, so the step is not made and nothing of it is saved; "
            f"{reason}. Rows of the batch, counted from 0 in the prepared training rows: {shown or 'unknown'}{text}. "
            "A smaller training.learning_rate, model.dtype: float32 or other rows help, in a new run (--overwrite)"
        )

    def _find_rows(self) -> list[int]:
        """Find the rows of this process's batch: the order is a function of seed and epoch."""
        trainer, args = self._trainer, self._trainer.args
        if trainer.row_order is None:
            return []
        before = (trainer.state.global_step - self.epoch_start) * args.gradient_accumulation_steps
        number = before + max(self.batches_of_step, 1) - 1
        # Batches are distributed over the processes in turn.
        start = (number * args.world_size + args.process_index) * args.train_batch_size
        return list(islice(iter(trainer.row_order), start, start + args.train_batch_size))


def _show_row(trainer: Trainer, row: int) -> str:
    ids = trainer.train_dataset[row].get("input_ids", [])
    text: str = trainer.processing_class.decode(ids, skip_special_tokens=True)
    return shorten(text)


def try_longest_batch(trainer: Trainer, dataloader: DataLoader[Any], wanted: bool | Literal["auto"]) -> None:
    """Compute the gradients of the longest rows with memory reserved for the optimizer's states, and discard them.

    Everything is left unchanged: random state, weights, gradients, sums, penalties. Not done for sharded weights, nor
    for rows whose length only the task's trainer knows. `auto` does it on GPUs only.
    """
    if wanted == "auto":
        wanted = torch.cuda.is_available()
    if not wanted or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return
    if not (rows := _find_longest(trainer)):
        return
    batch = dataloader.collate_fn([dataloader.dataset[row] for row in rows])
    sums, num_penalties = trainer.sums.to_list(), len(trainer.penalties)
    with keep_random_state(), trainer.accelerator.no_sync(trainer.model_wrapped):
        reserved = _reserve_optimizer(trainer)
        _compute_gradients(trainer, trainer._prepare_inputs(batch))
        del reserved
    trainer.sums = type(trainer.sums)(sums, trainer.args.device)
    del trainer.penalties[num_penalties:]
    trainer.model_wrapped.zero_grad()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _find_longest(trainer: Trainer) -> list[int]:
    rows, size = trainer.train_dataset, trainer.args.train_batch_size
    if "length" in rows.column_names:
        lengths = rows["length"][:]
    elif "input_ids" in rows.column_names:
        lengths = list(map(len, rows["input_ids"][:]))
    else:
        return []
    return sorted(range(len(lengths)), key=lambda row: -lengths[row])[:size]


def _reserve_optimizer(trainer: Trainer) -> list[torch.Tensor]:
    """Allocate the memory that Adam's states will take, if there are none yet."""
    if trainer.optimizer.state:
        return []
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    return [torch.empty_like(each) for each in trained for _ in range(2)]


def _compute_gradients(trainer: Trainer, batch: dict[str, Any]) -> None:
    trainer.model_wrapped.train()
    count = trainer._get_num_items_in_batch([batch], trainer.args.device)
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model_wrapped, batch, num_items_in_batch=count)
    trainer.accelerator.backward(loss)

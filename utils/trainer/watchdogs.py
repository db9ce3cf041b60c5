"""Stops a run whose numbers are no numbers, naming step and rows, and tries the longest batch before the first step."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from utils.generation.model_state import keep_random_state
from utils.trainer.saving import NotFiniteError

if TYPE_CHECKING:
    import torch

_SKIPPED_STEPS = 25
"""Steps in a row that a gradient scaler may skip while it looks for its scale; fp16 only."""
_SHOWN_ROWS = 16
_SHOWN_LETTERS = 80


class NanGuard:
    """What our trainers share: no step is made from a loss or gradient that is not finite."""

    args: Any
    state: TrainerState
    model: Any
    model_wrapped: Any
    accelerator: Any
    train_dataset: Any
    processing_class: Any
    optimizer: Any
    _order: Any

    try_longest: bool | Literal["auto"] = "auto"
    _epoch_start: int = 0
    """Batches of a process before the epoch that is trained, counted as if each step had all of its batches."""
    _batches_of_step: int = 0
    _skipped: int = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(_Beginning(self))  # type: ignore[attr-defined]  # the Trainer's

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        self._epoch_start = kwargs["epoch"] * kwargs["num_update_steps_per_epoch"]
        super()._run_epoch(*args, **kwargs)  # type: ignore[misc]  # a mixin

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the gradients of a batch.

        Raises:
            NotFiniteError: The loss is nan or infinite.
        """
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]  # a mixin
        self._batches_of_step += 1
        if not math.isfinite(value := float(loss)):
            raise NotFiniteError(self._explain(f"the loss is {value}"))
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)  # type: ignore[misc]  # a mixin
        finite = norm is None or math.isfinite(float(norm))
        self._skipped = 0 if finite else self._skipped + 1
        allowed = _SKIPPED_STEPS if getattr(self.accelerator, "scaler", None) is not None else 0
        if self._skipped > allowed:
            raise NotFiniteError(self._explain(f"the gradient's norm is {float(norm)}"))
        return norm

    def _explain(self, found: str) -> str:
        step = self.state.global_step + 1
        rows = self._find_rows()
        shown = ", ".join(map(str, rows[:_SHOWN_ROWS])) + (" ..." if len(rows) > _SHOWN_ROWS else "")
        text = f"; the first: {self._show_row(rows[0])!r}" if rows else ""
        broken = next((name for name, p in self.model.named_parameters() if not bool(p.isfinite().all())), None)
        reason = f"the weight {broken} is not finite" if broken else "the weights themselves are finite"
        return (
            f"step {step}: {found}, so the step is not made and nothing of it is saved; {reason}. "
            f"Rows of the batch, counted from 0 in the prepared training rows: {shown or 'unknown'}{text}. "
            "A smaller training.learning_rate, model.dtype: float32 or other rows help, in a new run (--overwrite)"
        )

    def _find_rows(self) -> list[int]:
        """Find the rows of this process's batch: the order is a function of seed and epoch."""
        if self._order is None:
            return []
        args = self.args
        before = (self.state.global_step - self._epoch_start) * args.gradient_accumulation_steps
        number = before + max(self._batches_of_step, 1) - 1
        start = (number * args.world_size + args.process_index) * args.train_batch_size
        return list(islice(iter(self._order), start, start + args.train_batch_size))

    def _show_row(self, row: int) -> str:
        ids = self.train_dataset[row].get("input_ids", [])
        text: str = self.processing_class.decode(ids, skip_special_tokens=True)
        return text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}..."

    def try_longest_batch(self, dataloader: Any) -> None:
        """Compute the gradients of the longest rows, with room for the optimizer's states, and forget them.

        Nothing is left changed: random numbers, weights, gradients, sums. Weights spread over processes are not tried.
        """
        import torch

        wanted = torch.cuda.is_available() if self.try_longest == "auto" else self.try_longest
        trainer: Any = self
        if not wanted or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
            return
        rows = self._find_longest()
        batch = dataloader.collate_fn([dataloader.dataset[row] for row in rows])
        sums = trainer.export_sums()
        with keep_random_state(), self.accelerator.no_sync(self.model_wrapped):
            room = self._reserve_optimizer()
            self._compute_gradients(trainer._prepare_inputs(batch))
            del room
        trainer.import_sums(sums)
        self.model_wrapped.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _find_longest(self) -> list[int]:
        rows, size = self.train_dataset, self.args.train_batch_size
        lengths = rows["length"][:] if "length" in rows.column_names else list(map(len, rows["input_ids"][:]))
        return sorted(range(len(lengths)), key=lambda row: -lengths[row])[:size]

    def _reserve_optimizer(self) -> list[torch.Tensor]:
        """Take the memory that Adam's states will take, where there are none yet."""
        import torch

        if self.optimizer.state:
            return []
        trained = [p for p in self.model.parameters() if p.requires_grad]
        return [torch.empty_like(each) for each in trained for _ in range(2)]

    def _compute_gradients(self, batch: dict[str, Any]) -> None:
        trainer: Any = self
        self.model_wrapped.train()
        count = trainer._get_num_items_in_batch([batch], self.args.device)
        with trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(self.model_wrapped, batch, num_items_in_batch=count)
        self.accelerator.backward(loss)


class _Beginning(TrainerCallback):
    """Tries the longest batch when training begins, and counts the batches of a step."""

    def __init__(self, trainer: NanGuard) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Run out of memory now or never."""
        if state.global_step < state.max_steps:
            self._trainer.try_longest_batch(kwargs["train_dataloader"])

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count from here."""
        self._trainer._batches_of_step = 0

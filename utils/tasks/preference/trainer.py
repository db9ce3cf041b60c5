"""Trainers with a loss per row, and those that compare an answer's log-probability with a reference's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from trl.trainer.utils import disable_dropout_in_model

from utils.adapters.adapter import evaluating
from utils.core.signals import raise_if_interrupted
from utils.tasks.preference.batches import OF_BATCH, REFERENCE
from utils.trainer.base import LoraNsTrainer
from utils.trainer.processes import Sums, any_interrupted, count_real_rows
from utils.trainer.trained_head import install_trained_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class RowsTrainer(LoraNsTrainer):
    """Train on the mean of a loss that `compute_rows` computes for each row; tasks extend it.

    The loss is the mean over the rows of the whole optimizer step, however they are split into batches and processes.
    """

    TEXTS_PER_ROW: ClassVar[int] = 1
    section: Any

    def __init__(self, *, model: PreTrainedModel, section: Any, **kwargs: Any) -> None:
        self.section = section
        super().__init__(model=model, **kwargs)
        if section.disable_dropout:
            disable_dropout_in_model(self.model)
        self.model_accepts_loss_kwargs = True  # the loss is divided by the rows of the whole step
        self._num_real: int | None = None

    def compute_rows(self, model: Any, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Compute per row, shape (n,): its loss, with gradients, and the values whose sums `describe` gets."""
        raise NotImplementedError

    def describe(self, num_rows: float, *totals: float) -> dict[str, float]:
        """Turn sums over rows (without the loss) into metrics."""
        raise NotImplementedError

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute a batch's share of the mean loss over the rows of the whole optimizer step."""
        assert not return_outputs, "prediction_step asks for none"
        rows = [each[: self._num_real] for each in self.compute_rows(model, inputs)]
        num_rows = len(rows[0])
        loss = rows[0].sum() / (max(num_rows, 1) if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients over processes
        sums = self.sums if self.model.training else self.eval_sums
        sums.add(*(each.detach().double().sum() for each in rows), float(num_rows))
        return self.penalize(loss)

    def describe_evaluation(self, *totals: float) -> dict[str, float]:
        """Return the mean loss over all rows and the task's own metrics."""
        loss, *others, num_rows = totals
        return {"loss": loss / max(num_rows, 1), **self.describe(max(num_rows, 1), *others)}

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; duplicated rows that pad the last batch of several processes count once."""
        if any_interrupted(self.args):
            raise_if_interrupted()
        inputs = self._prepare_inputs(inputs)
        self._num_real = count_real_rows(self.accelerator, len(inputs["answer_tokens"]) // self.TEXTS_PER_ROW)
        try:
            with torch.no_grad(), self.compute_loss_context_manager():
                return self.compute_loss(model, inputs).detach(), None, None
        finally:
            self._num_real = None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and add to a training loss the task's metrics since the last log."""
        if "loss" in logs and not self.sums.is_empty:
            _, *totals, num_rows = self.sums.read(self.accelerator)
            logs |= self.describe(max(num_rows, 1), *totals)
            self.sums = Sums()
        super().log(logs, *args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """Count the rows of an optimizer step over all processes."""
        count = sum(len(batch["answer_tokens"]) for batch in batch_samples) // self.TEXTS_PER_ROW
        found = torch.tensor(count, device=device)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            found = self.accelerator.gather(found).sum()
        return found

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [
            "input_ids", "labels", "rejected_input_ids", "rejected_labels", "kl_input_ids", "kl_labels", "is_good",
            "margin", REFERENCE,
        ]  # fmt: skip


class PreferenceTrainer(RowsTrainer):
    """Compute log-probabilities of answers by the model and by its reference.

    They are computed at the sampling `temperature`.
    """

    references_per_row = 1
    """Number of log-probabilities that a reference gives per row."""

    def __init__(self, *, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        install_trained_head(self.model, temperature=temperature)

    def reduce(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Reduce the log-probabilities of each answer's tokens to one per text, shape (texts,)."""
        return torch.stack([part.sum() for part in parts])

    def score(self, model: Any, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
        """Compute the log-probabilities of the answers' tokens, one tensor per text of a batch."""
        given = {name: value for name, value in inputs.items() if name not in OF_BATCH}
        found = model(**given, trained_positions=True, each=True).log_probs
        return list(found.split(inputs["answer_tokens"].tolist()))

    def score_reference(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return the reference's log-probability of each text, precomputed or by the base without its adapter."""
        if REFERENCE in inputs:
            return inputs[REFERENCE].T.reshape(-1)
        with self.as_base() as base:
            return self.reference_of(base, inputs)

    def reference_of(self, model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Compute the log-probabilities to keep of a reference, one per text, all first texts first."""
        return self.reduce(self.score(model, inputs))

    @contextmanager
    def as_base(self) -> Iterator[Any]:
        """Yield the model without its adapter, in evaluation mode."""
        unwrapped = self.accelerator.unwrap_model(self.model)
        # Without an adapter only a run that trains nothing comes here: prepare_reference precomputes the others'
        # reference.
        off = unwrapped.disable_adapter() if hasattr(unwrapped, "disable_adapter") else nullcontext()
        with torch.no_grad(), off, evaluating(unwrapped):
            yield self.model

    @contextmanager
    def as_start(self, other: Any = None) -> Iterator[Any]:
        """Yield the model, or another one, in evaluation mode."""
        model = self.model if other is None else other
        with torch.no_grad(), evaluating(model), self.compute_loss_context_manager():
            yield model


def compare_sides(pairs: torch.Tensor) -> torch.Tensor:
    """Return for each pair, (2, n), whether the first is larger: 1, 0, or 1/2 for ties, as before training."""
    return (pairs[0] > pairs[1]).float() + 0.5 * (pairs[0] == pairs[1]).float()

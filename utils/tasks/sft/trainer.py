"""TRL's SFTTrainer with our loss: the head at trained positions only, exact sums over tokens and processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from trl import SFTTrainer

from utils.trainer.adapter_aware import AdapterAware
from utils.trainer.chunked_cross_entropy import install_trained_head
from utils.trainer.fault_tolerance import FaultTolerant
from utils.trainer.param_group_rates import ParamGroupLearningRates
from utils.trainer.real_rows import count_real_rows
from utils.trainer.sampling import SeededRows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CausalTrainer(FaultTolerant, SeededRows, ParamGroupLearningRates, AdapterAware, SFTTrainer):  # type: ignore[misc]
    """An SFTTrainer whose loss, in training and evaluation, is a mean over trained tokens, nothing else.

    TRL's own loss evaluates the head at every position on a CPU; transformers' averages an evaluation over
    batches, so that it changes with the batch size.

    Args:
        model: With its adapter attached.
        **kwargs: As for `trl.SFTTrainer`, and `learning_rates` as for `ParamGroupLearningRates`.
    """

    def __init__(self, *, model: PreTrainedModel, **kwargs: Any) -> None:
        dtypes = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
        with _unseen_head(model):
            super().__init__(model=model, **kwargs)
        for name, parameter in self.model.named_parameters():  # TRL makes adapters on a quantized base bfloat16
            if name in dtypes:
                parameter.data = parameter.data.to(dtypes[name])
        install_trained_head(self.model, self.args.label_smoothing_factor, self.args.loss_type == "dft")
        self.model_accepts_loss_kwargs = True  # the loss is divided by the tokens of the whole step
        self._loss_shifts_labels = True
        self._sums = {"train": _Sums(), "eval": _Sums()}

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute the mean loss of a batch over the trained tokens of its whole optimizer step.

        An adapter's own penalty is added in training, and is no part of an evaluation's loss.
        """
        if self.aux_loss_enabled and self.model.training:  # mixtures of experts: TRL balances their load
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            return (self.penalize(loss), outputs) if return_outputs else self.penalize(loss)
        outputs = model(**inputs, trained_positions=True)
        count = outputs.num_targets.clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        loss = outputs.loss / count
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # processes average their gradients
        self._sums["train" if self.model.training else "eval"].add(outputs)
        loss = self.penalize(loss)
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Evaluate; the loss is the mean over all trained tokens, with perplexity and token accuracy beside it."""
        sums = self._sums["eval"] = _Sums()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if not sums.is_empty:
            loss, accuracy = sums.read(self.accelerator)
            output.metrics.update(
                {
                    f"{metric_key_prefix}_loss": loss,
                    f"{metric_key_prefix}_perplexity": math.exp(min(loss, 700.0)),
                    f"{metric_key_prefix}_token_accuracy": accuracy,
                }
            )
        return output

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; rows that only fill up the last one of several processes count once, not twice."""
        starts = inputs.get("cu_seq_lens_q")
        num_rows = len(inputs["labels"]) if starts is None else len(starts) - 1
        if (num_real := count_real_rows(self.accelerator, num_rows)) is not None:
            labels = inputs["labels"] = inputs["labels"].clone()
            if starts is None:
                labels[num_real:] = -100
            else:
                labels[:, starts[num_real] :] = -100
        return super().prediction_step(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and with a training loss the token accuracy since the last one."""
        sums = self._sums["train"]
        if "loss" in logs and not sums.is_empty:
            logs["token_accuracy"] = sums.read(self.accelerator)[1]
            self._sums["train"] = _Sums()
        super().log(logs, start_time)

    def export_sums(self) -> list[float]:
        """Give the loss and the tokens since the last logged step, for a run that is resumed in between."""
        return self._sums["train"].export()

    def import_sums(self, sums: list[float]) -> None:
        """Take them up again."""
        self._sums["train"] = _Sums.of(sums, self.args.device)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card beside every checkpoint: the run folder explains itself."""


@contextmanager
def _unseen_head(model: Any) -> Iterator[None]:
    """Keep TRL from refusing a head with an adapter or new tokens: its loss would pass over them, ours does not."""
    model.get_output_embeddings = lambda: None
    try:
        yield
    finally:
        del model.get_output_embeddings


class _Sums:
    """Sums over batches, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self._loss: Any = 0.0
        self._num_targets: Any = 0
        self._num_right: Any = 0

    @property
    def is_empty(self) -> bool:
        return not torch.is_tensor(self._loss)

    def add(self, outputs: Any) -> None:
        self._loss = self._loss + outputs.loss.detach().double()
        self._num_targets = self._num_targets + outputs.num_targets
        self._num_right = self._num_right + outputs.num_right

    def export(self) -> list[float]:
        return [] if self.is_empty else [float(each) for each in (self._loss, self._num_targets, self._num_right)]

    @classmethod
    def of(cls, numbers: list[float], device: torch.device) -> _Sums:
        found = cls()
        if numbers:
            loss, num_targets, num_right = (torch.tensor(each, dtype=torch.float64, device=device) for each in numbers)
            found._loss, found._num_targets, found._num_right = loss, num_targets.long(), num_right.long()
        return found

    def read(self, accelerator: Any) -> tuple[float, float]:
        """Give mean loss and token accuracy over all processes."""
        sums = torch.stack([self._loss, self._num_targets.double(), self._num_right.double()])
        total, num_targets, num_right = accelerator.reduce(sums, reduction="sum").tolist()
        return total / max(num_targets, 1), num_right / max(num_targets, 1)

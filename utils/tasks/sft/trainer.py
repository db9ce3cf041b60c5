"""TRL's SFTTrainer with the head at trained positions only and exact sums over tokens and processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trl import SFTTrainer

from utils.trainer.base import LoraNsTrainer
from utils.trainer.processes import Sums, count_real_rows
from utils.trainer.trained_head import install_trained_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CausalTrainer(LoraNsTrainer, SFTTrainer):
    """An SFTTrainer whose loss, in training and evaluation, is exactly the mean over trained tokens.

    TRL's own loss computes the head at every position on a CPU; transformers averages an evaluation over batches, so
    that it depends on the batch size.
    """

    def __init__(self, *, model: PreTrainedModel, **kwargs: Any) -> None:
        dtypes = {name: parameter.dtype for name, parameter in model.named_parameters() if parameter.requires_grad}
        with _hide_head_adapter(model):
            super().__init__(model=model, **kwargs)
        for name, parameter in self.model.named_parameters():  # TRL casts adapters on a quantized base to bfloat16
            if name in dtypes:
                parameter.data = parameter.data.to(dtypes[name])
        install_trained_head(self.model, self.args.label_smoothing_factor, self.args.loss_type == "dft")
        self.model_accepts_loss_kwargs = True  # the loss is divided by the tokens of the whole step
        self._loss_shifts_labels = True

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute a batch's share of the mean loss over the trained tokens of the whole optimizer step.

        An adapter's own penalty is added in training, but not in evaluation.
        """
        if self.aux_loss_enabled and self.model.training:  # mixtures of experts: TRL balances their load
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs = model(**inputs, trained_positions=True)
        count = outputs.num_targets.clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        loss = outputs.loss / count
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients over processes
        sums = self.sums if self.model.training else self.eval_sums
        sums.add(outputs.loss, outputs.num_targets, outputs.num_right)
        loss = self.penalize(loss)
        return (loss, outputs) if return_outputs else loss

    def describe_evaluation(self, *totals: float) -> dict[str, float]:
        """Return the mean loss over all trained tokens, perplexity and token accuracy."""
        loss, accuracy = _mean_loss_and_accuracy(*totals)
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "token_accuracy": accuracy}

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; duplicated rows that pad the last batch of several processes count once."""
        starts = inputs.get("cu_seq_lens_q")
        num_rows = len(inputs["labels"]) if starts is None else len(starts) - 1
        if (num_real := count_real_rows(self.accelerator, num_rows)) is not None:
            labels = inputs["labels"] = inputs["labels"].clone()
            if starts is None:
                labels[num_real:] = -100
            else:
                labels[:, starts[num_real] :] = -100
        return super().prediction_step(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and add to a training loss the token accuracy since the last log."""
        if "loss" in logs and not self.sums.is_empty:
            logs["token_accuracy"] = _mean_loss_and_accuracy(*self.sums.read(self.accelerator))[1]
            self.sums = Sums()
        super().log(logs, *args, **kwargs)


def _mean_loss_and_accuracy(loss: float, num_targets: float, num_right: float) -> tuple[float, float]:
    """Return mean loss and token accuracy."""
    return loss / max(num_targets, 1), num_right / max(num_targets, 1)


@contextmanager
def _hide_head_adapter(model: Any) -> Iterator[None]:
    """Keep TRL from rejecting a head with an adapter or new tokens, which its own loss would ignore."""
    model.get_output_embeddings = lambda: None
    try:
        yield
    finally:
        del model.get_output_embeddings

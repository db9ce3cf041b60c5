"""The trainer of classification and regression, with a loss that does not depend on the batching."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from utils.core.errors import ConfigError, Problem
from utils.trainer.base import LoraNsTrainer
from utils.trainer.processes import count_real_rows


class ClassificationTrainer(LoraNsTrainer):
    """A Trainer whose evaluation loss is the mean over rows, each counted once, independent of the batching."""

    FUSES_LORA = False  # losses equal a plain Trainer's to the bit

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a batch; duplicated rows that pad the last batch of several processes are left out of the loss."""
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        if self.compute_loss_func is not None and logits is not None and labels is not None:
            num_real = count_real_rows(self.accelerator, len(labels))
            num_rows = len(labels) if num_real is None else num_real
            mean = self.compute_loss_func((_first(logits)[:num_rows],), labels[:num_rows]) if num_rows else loss * 0
            self.eval_sums.add(mean * num_rows, num_rows)
        return loss, logits, labels

    def describe_evaluation(self, *totals: float) -> dict[str, float]:
        """Return the mean loss."""
        loss, num_rows = totals
        return {"loss": loss / num_rows} if num_rows else {}


def keep_predictions(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Reduce logits to predictions batch by batch, so that the memory of an evaluation does not grow with the classes.

    Args:
        logits: Shape (batch, num_labels), or a tuple whose first element has that shape.
        labels: Unused; the Trainer passes them.

    Returns:
        Class ids, or values for regression, shape (batch,), also for a batch of one row.
    """
    first = _first(logits)
    return first.squeeze(-1).float() if first.shape[-1] == 1 else first.argmax(dim=-1)


def _first(logits: Any) -> torch.Tensor:
    first: torch.Tensor = logits[0] if isinstance(logits, (tuple, list)) else logits
    return first


class ClassificationLoss:
    """Cross-entropy, or mean squared error for regression, over all rows of an optimizer step.

    transformers divides a loss by the number of accumulated batches only if the model has not normalized it, which it
    assumes of every model whose forward takes keyword arguments. Classifiers take them but do not normalize, so their
    gradients would be too large by the number of accumulated batches (and of processes). This loss divides the sum over
    rows by the number of rows in the whole step.

    Args:
        num_labels: 1 for regression.
        class_weights: Weight of each class, with mean 1 over the training rows, or None.
        label_smoothing: Share of the target spread over all classes, from 0 to 1.
    """

    def __init__(self, num_labels: int, class_weights: list[float] | None = None, label_smoothing: float = 0.0) -> None:
        self.num_labels = num_labels
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Compute the loss of logits, shape (batch, num_labels), and labels, shape (batch,).

        `num_items_in_batch` is the number of rows in the whole optimizer step; None: in this batch.
        """
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        labels = labels.to(logits.device)
        count = labels.shape[0] if num_items_in_batch is None else num_items_in_batch
        if self.num_labels == 1:
            return functional.mse_loss(logits.view(-1).float(), labels.view(-1).float(), reduction="sum") / count
        total = functional.cross_entropy(
            logits.view(-1, self.num_labels).float(),
            labels.view(-1),
            weight=None if self.class_weights is None else torch.tensor(self.class_weights, device=logits.device),
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
        return total / count


def scale_class_weights(weights: list[float] | str | None, label_counts: list[int]) -> list[float] | None:
    """Resolve `balanced`, and scale weights to mean 1 over the training rows, which keeps the learning rate's meaning.

    Args:
        weights: One weight per class, `balanced` (inverse to the class frequency), or None.
        label_counts: Number of training rows of each class.

    Raises:
        ConfigError: The number of weights differs from the number of classes, or all weights are zero.
    """
    if weights is None:
        return None
    raw = [1 / max(count, 1) for count in label_counts] if isinstance(weights, str) else list(weights)
    if len(raw) != len(label_counts):
        raise _refuse(f"needs {len(label_counts)} numbers, one for each class, found {len(raw)}")
    mean = sum(weight * count for weight, count in zip(raw, label_counts, strict=True)) / sum(label_counts)
    if min(raw) < 0 or mean <= 0:
        raise _refuse(f"{raw} leaves the loss without a training row that counts; weights are 0 or more")
    return [weight / mean for weight in raw]


def _refuse(message: str) -> ConfigError:
    return ConfigError([Problem(message, "training.class_weights")])

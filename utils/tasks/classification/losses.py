"""The loss of classification and regression, exact under gradient accumulation.

transformers divides a loss by the number of accumulated batches only where it believes that the model has not
done so, and takes every model whose forward accepts keyword arguments as one that has. Classifiers accept them
and do not, so their gradients come out too large by the number of accumulated batches (and of processes).
Here the sum over rows is divided by the rows of the whole step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from utils.core.errors import ConfigError, Problem


class ClassificationLoss:
    """Cross-entropy, or mean squared error for regression, over all rows of an optimizer step.

    Args:
        num_labels: Number of classes; 1 for regression.
        class_weights: Weight of each class, or None. They are scaled so that their mean over the training
            rows is 1: the learning rate keeps its meaning.
        label_smoothing: Share of the target spread over all classes, 0 to 1.
    """

    def __init__(self, num_labels: int, class_weights: list[float] | None = None, label_smoothing: float = 0.0) -> None:
        self.num_labels = num_labels
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            outputs: The model's outputs with `logits` of shape (batch, num_labels).
            labels: Shape (batch,).
            num_items_in_batch: Rows of the whole optimizer step; None: the rows of this batch.
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
    """Resolve `balanced` and scale weights to a mean of 1 over the training rows.

    Args:
        weights: One weight per class, `balanced` (inverse to the class's share), or None.
        label_counts: Training rows of each class.

    Raises:
        ConfigError: There are not as many weights as classes, or they weigh nothing.
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

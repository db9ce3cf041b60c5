"""Counts a model's parameters: logical elements, whatever the way in which they are stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_FROZEN_COPY = ".original_module."  # peft keeps the replaced head beside the trained one


@dataclass(frozen=True)
class ParameterCounts:
    """How many parameters a model has and trains."""

    trainable: int
    """Logical elements that training changes."""
    total: int
    """Logical elements of the model; tied weights count once, a 4-bit weight as the matrix it stands for."""
    trainable_percent: float
    """100 * trainable / total, 0 to 100."""
    trainable_percent_packed: float
    """The same with every tensor counted as it is stored: a packed 4-bit weight is half its logical size."""


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count the parameters of a model; works on the meta device too.

    The frozen copy of a head that peft keeps under `modules_to_save` is not counted: the model has one head.

    Args:
        model: A plain, quantized or adapted model.
    """
    trainable = total = packed_trainable = packed_total = 0
    for name, parameter in model.named_parameters():
        if _FROZEN_COPY in name:
            continue
        logical, packed = _logical_size(parameter), _packed_size(parameter)
        total += logical
        packed_total += packed
        if parameter.requires_grad:
            trainable += logical
            packed_trainable += packed
    return ParameterCounts(
        trainable=trainable,
        total=total,
        trainable_percent=100 * trainable / max(total, 1),
        trainable_percent_packed=100 * packed_trainable / max(packed_total, 1),
    )


def _logical_size(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def _packed_size(parameter: nn.Parameter) -> int:
    """Count elements as stored; of a packed weight bytes, whatever type it is kept in."""
    is_packed = getattr(parameter, "quant_state", None) is not None
    return int(parameter.numel() * parameter.element_size()) if is_packed else int(parameter.numel())

"""Learning rates of single parameters: the task head's, and what a method asks for (LoRA+)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def set_learning_rates(optimizer: torch.optim.Optimizer, model: nn.Module, rates: Mapping[str, float]) -> None:
    """Move parameters with a rate of their own, by name, to groups of their own.

    The new groups keep all else that the old ones say, such as weight decay; the schedule is everyone's.
    """
    members: dict[float, set[int]] = {}
    for name, parameter in model.named_parameters():
        if name in rates:
            members.setdefault(rates[name], set()).add(id(parameter))
    for rate, chosen in members.items():
        for group in list(optimizer.param_groups):
            moved = [parameter for parameter in group["params"] if id(parameter) in chosen]
            if moved:
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
                options = {key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr")}
                optimizer.add_param_group({**options, "params": moved, "lr": rate})

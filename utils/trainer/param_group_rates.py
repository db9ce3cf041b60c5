"""Learning rates of single parameters: the task head's, and what a method asks for (LoRA+)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class ParamGroupLearningRates:
    """Lets parameters learn at rates of their own, whatever the optimizer; weight decay and schedule are everyone's.

    Stands before a `transformers.Trainer` among a class's bases.

    Args:
        learning_rates: By a parameter's name.
        **kwargs: The Trainer's.
    """

    model: Any

    def __init__(self, *, learning_rates: Mapping[str, float] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.learning_rates = dict(learning_rates or {})

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimizer and give parameters their own learning rates, before the schedule is made."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)  # type: ignore[misc]  # a mixin
        members: dict[float, set[int]] = {}
        for name, parameter in self.model.named_parameters():
            if name in self.learning_rates:
                members.setdefault(self.learning_rates[name], set()).add(id(parameter))
        for rate, chosen in members.items():
            split_groups(optimizer, chosen, rate)
        return optimizer


def split_groups(optimizer: torch.optim.Optimizer, members: set[int], learning_rate: float) -> None:
    """Move some parameters of every group to a group of their own with another learning rate.

    Args:
        optimizer: Its groups keep all else that they say, such as weight decay.
        members: Identities of the parameters.
        learning_rate: Theirs.
    """
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if id(parameter) in members]
        if moved:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in members]
            options = {key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr")}
            optimizer.add_param_group({**options, "params": moved, "lr": learning_rate})

"""Plug-in optimizers and schedules, and learning rates of single parameters."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger(__name__)


def set_learning_rates(optimizer: torch.optim.Optimizer, model: nn.Module, rates: Mapping[str, float]) -> None:
    """Move parameters with their own learning rate, by name, to separate parameter groups.

    The new groups keep the other settings of the old ones, such as weight decay, and share the schedule.
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


def build_optimizer(trainer: Any) -> torch.optim.Optimizer | None:
    """Build the optimizer with the plug-in that `training.optim` names; None: it is one of transformers' own.

    Its groups are those with and without weight decay, as in transformers.
    """
    if trainer.optimizer_plugin is None:
        return None
    plugin, config = trainer.optimizer_plugin
    model = trainer.model
    decayed = set(trainer.get_decay_parameter_names(model))
    trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    groups = [
        {"params": [each for name, each in trained if (name in decayed) is decays], "weight_decay": decay}
        for decays, decay in ((True, trainer.args.weight_decay), (False, 0.0))
    ]
    optimizer: torch.optim.Optimizer = plugin.build_optimizer(model, groups, trainer.args, config)
    return optimizer


def build_schedule(trainer: Any, num_training_steps: int, optimizer: Any = None) -> Any:
    """Build the schedule with the plug-in that `training.lr_scheduler_type` names, and record where it restarts."""
    assert trainer.schedule_plugin is not None, "asked for where it names one"
    plugin, config = trainer.schedule_plugin
    if hasattr(plugin, "list_restarts"):
        trainer.restarts = frozenset(plugin.list_restarts(num_training_steps, config))
        logger.info("learning rate: %s", plugin.describe(num_training_steps, config))
    wanted = trainer.optimizer if optimizer is None else optimizer
    return plugin.build_schedule(wanted, num_training_steps, trainer.args, config)

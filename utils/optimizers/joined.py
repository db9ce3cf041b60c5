"""Several optimizers as one: each steps its own groups; schedule, checkpoints and learning rates see a single one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch


class JoinedOptimizer(torch.optim.Optimizer):
    """Steps its parts one after another; their groups and states are its own.

    Args:
        parts: At least one optimizer, over disjoint parameters.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts: list[torch.optim.Optimizer] = []
        groups = [{**group, _PART: index} for index, part in enumerate(parts) for group in part.param_groups]
        super().__init__(groups, {})
        self._parts = list(parts)
        self._link()

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Step every part, and return the closure's loss if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, which belongs to the part whose settings it was copied from."""
        super().add_param_group(param_group)
        self._link()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load groups and states of all parts."""
        super().load_state_dict(state_dict)
        self._link()

    state: defaultdict[Any, Any]

    def _link(self) -> None:
        """Make the parts share this optimizer's groups and states."""
        if not isinstance(self.state, defaultdict):
            self.state = defaultdict(dict, self.state)
        for index, part in enumerate(self._parts):
            part.param_groups = [group for group in self.param_groups if group[_PART] == index]
            part.state = self.state


_PART = "optimizer_part"
"""Key of a group that holds its part's index; saved in checkpoints."""

"""Which rows of an evaluation's batch are real, and sums over them: several processes fill up the last batch."""

from __future__ import annotations

from typing import Any


def count_real_rows(accelerator: Any, num_rows: int) -> int | None:
    """Count this process's rows of an evaluation's last batch that no other batch holds; None: all of them.

    Args:
        accelerator: The trainer's; it knows which batch is the last one.
        num_rows: Rows of this process's batch.
    """
    state = accelerator.gradient_state
    if accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
        return None
    mine = int(state.remainder) - int(accelerator.process_index) * num_rows
    return min(max(mine, 0), num_rows)


class RowSums:
    """The loss summed over rows, kept on the device until it is asked for."""

    def __init__(self) -> None:
        self._loss: Any = None
        self._num_rows = 0

    def add(self, loss: Any, num_rows: int) -> None:
        """Add a batch: the sum of its rows' losses, a tensor without dimensions, and how many rows they are."""
        total = loss.detach().double()
        self._loss = total if self._loss is None else self._loss + total
        self._num_rows += num_rows

    def read_mean(self, accelerator: Any) -> float | None:
        """Give the mean over the rows of all processes; None where nothing was added."""
        import torch

        if self._loss is None:
            return None
        sums = torch.stack([self._loss, torch.tensor(float(self._num_rows), dtype=torch.float64).to(self._loss.device)])
        total, num_rows = accelerator.reduce(sums, reduction="sum").tolist()
        return float(total / num_rows) if num_rows else None

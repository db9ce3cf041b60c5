"""`training.global_batch_size`: the rows of an optimizer step, whatever the number of processes."""

from __future__ import annotations


def count_accumulation(total: int, per_device: int, processes: int) -> int:
    """Count the batches that each process adds up before a step.

    Args:
        total: Rows of a step, of all processes together.
        per_device: Rows of a batch of one process.
        processes: Processes of the run.

    Returns:
        The number; 1 where they do not divide, which `division_problem` says.
    """
    return max(total // (per_device * processes), 1)


def division_problem(total: int, per_device: int, processes: int) -> str | None:
    """Say that a global batch cannot be split evenly, with the nearest sizes that can; None: it can."""
    at_once = per_device * processes
    if total % at_once == 0:
        return None
    below, above = total // at_once * at_once, (total // at_once + 1) * at_once
    sizes = f"{below} or {above}" if below else f"{above}"
    split = f"{processes} processes of {per_device} rows" if processes > 1 else f"batches of {per_device} rows"
    smaller = next((size for size in range(per_device - 1, 0, -1) if total % (size * processes) == 0), None)
    remedy = f", or training.per_device_train_batch_size: {smaller}" if smaller else ""
    return f"{total} rows do not divide into {split}; the nearest that do: {sizes}{remedy}"

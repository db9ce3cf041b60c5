"""`training.global_batch_size`: the rows of an optimizer step, whatever the number of processes."""

from __future__ import annotations


def split_batch(total: int, ceiling: int, processes: int) -> tuple[int, int] | None:
    """Split a global batch into batches of equal size, the fewest that each process can hold.

    Args:
        total: Rows of a step, of all processes together.
        ceiling: Rows that a process may take at once.
        processes: Processes of the run.

    Returns:
        Rows of a batch, and the batches that each process adds up before a step; None where only batches of half the
        ceiling or fewer would divide it, which are slow for no good reason, or none do.
    """
    each, rest = divmod(total, processes)
    if rest or not each:
        return None
    rows = next(size for size in range(min(ceiling, each), 0, -1) if each % size == 0)
    return (rows, each // rows) if 2 * rows > min(ceiling, each) else None


def division_problem(total: int, ceiling: int, processes: int) -> str | None:
    """Say that a global batch cannot be split evenly, with the nearest sizes that can; None: it can."""
    if split_batch(total, ceiling, processes) is not None:
        return None
    at_once = ceiling * processes
    below, above = total // at_once * at_once, (total // at_once + 1) * at_once
    sizes = f"{below} or {above}" if below else f"{above}"
    split = f"{processes} processes of {ceiling} rows" if processes > 1 else f"batches of {ceiling} rows"
    return f"{total} rows do not divide into {split}; the nearest that do: {sizes}"

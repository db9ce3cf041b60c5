"""Share work among the processes of one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from utils.core.errors import LoraNsError, UserError

_Value = TypeVar("_Value")

FAILURES = (
    LoraNsError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError,
    ImportError, OSError, MemoryError,
)  # fmt: skip
"""Errors of one set's evaluation after which the run can continue."""


def count_processes() -> int:
    """Count the processes of the run; 1 if this one is alone."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def find_rank() -> int:
    """Return this process's rank; rank 0 writes."""
    import torch.distributed as dist

    return dist.get_rank() if count_processes() > 1 else 0


def share_from_first(value: Any) -> Any:
    """Return the first process's value in every process."""
    import torch.distributed as dist

    if count_processes() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_lists(values: list[Any]) -> list[Any]:
    """Concatenate the lists of all processes, in every process."""
    import torch.distributed as dist

    if count_processes() == 1:
        return values
    gathered: list[list[Any]] = [[]] * count_processes()
    dist.all_gather_object(gathered, values)
    return [value for each in gathered for value in each]


def run_together(work: Callable[[], _Value]) -> _Value:
    """Call `work` in every process; a failure in one is raised in all, so that none waits for another.

    `work` itself must not wait for other processes.

    Raises:
        UserError: It failed in another process; this process's own failure is raised unchanged.
    """
    if count_processes() == 1:
        return work()
    failure, box = None, []
    try:
        box.append(work())
    except FAILURES as error:
        failure = error
    reasons = gather_lists([] if failure is None else [describe_failure(failure)])
    if failure is not None:
        raise failure
    if reasons:
        raise UserError(f"in another process: {reasons[0]}")
    return box[0]


def run_on_first(work: Callable[[], _Value]) -> _Value:
    """Call `work` in the first process only, and return its result in all; a failure there is raised in all.

    Raises:
        UserError: It failed in the first process, and this is another one.
    """
    found: _Value = share_from_first(run_together(lambda: work() if find_rank() == 0 else None))
    return found


def describe_failure(error: BaseException) -> str:
    """Describe a failure in one line; a UserError's own sentence is kept."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, LoraNsError) and text else f"{type(error).__name__}: {text}".rstrip(": ")

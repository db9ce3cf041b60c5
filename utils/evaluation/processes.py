"""Sharing work among the processes of one run, if there are several."""

from __future__ import annotations

from typing import Any


def count_processes() -> int:
    """Count the processes that work together; 1 when this one is alone."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def find_rank() -> int:
    """Give this process's number; 0 is the one that writes."""
    import torch.distributed as dist

    return dist.get_rank() if count_processes() > 1 else 0


def share_from_first(value: Any) -> Any:
    """Give every process what the first one has."""
    import torch.distributed as dist

    if count_processes() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_lists(values: list[Any]) -> list[Any]:
    """Put the lists of all processes behind each other, in every process."""
    import torch.distributed as dist

    if count_processes() == 1:
        return values
    gathered: list[list[Any]] = [[]] * count_processes()
    dist.all_gather_object(gathered, values)
    return [value for each in gathered for value in each]

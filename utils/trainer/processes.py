"""What the processes of one run do together: data prepared by one first, memory gathered, the group left cleanly."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.core.cache_folder import cache_folder
from utils.core.locks import try_lock, wait_for
from utils.core.signals import Interrupted
from utils.evaluation.processes import count_processes, gather_lists
from utils.trainer.launch import count_launched

logger = logging.getLogger(__name__)

_HEAD_START_S = 1.0
_TASKS = ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""How many tasks mpirun or srun has started together."""


@contextmanager
def main_process_first(output_dir: str) -> Iterator[None]:
    """Let one process of each machine do the work before the others, which then find it in the cache.

    They wait for a lock on a file, not in a collective: no time-out ends an hour of tokenising, and the lock of a
    process that dies is free.

    Args:
        output_dir: The run's folder, by which its processes know their file.
    """
    if count_launched() == 1:
        yield
        return
    name = hashlib.sha256(str(Path(output_dir).expanduser().absolute()).encode()).hexdigest()[:24]
    path = cache_folder() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    if int(os.environ.get("LOCAL_RANK", "0")) != 0:
        time.sleep(_HEAD_START_S)  # whoever comes first does the work; only the first process tells of it
    with path.open("a", encoding="utf-8") as file:
        _take(file)
        yield


def announce_processes(args: Any) -> None:
    """Say how many processes train, and on what.

    Args:
        args: The Trainer's, which know how they were started.
    """
    several = f" and {args.n_gpu - 1} more GPUs (--gpu starts a process for each)" if args.n_gpu > 1 else ""
    who = "1 process trains" if args.world_size == 1 else f"{args.world_size} processes train, this one"
    logger.info("%s on %s%s", who, args.device, several)
    tasks = {name: os.environ[name] for name in _TASKS if os.environ.get(name, "1") not in ("", "1")}
    if args.world_size == 1 and tasks:
        name, count = next(iter(tasks.items()))
        logger.warning(
            "%s is %s, and WORLD_SIZE is not set: each of these tasks trains a run of its own; to train one together "
            "use torchrun, or see examples/slurm/train_multi_node.sbatch", name, count,
        )  # fmt: skip


def gather_memory(mine: dict[str, Any]) -> dict[str, Any]:
    """Give the largest peaks of all processes, and each process's own in the order of their ranks.

    Args:
        mine: This process's `device` and peaks in GiB.
    """
    every = gather_lists([mine])
    if len(every) == 1:
        return mine
    peaks = {key: [each.get(key, 0.0) for each in every] for key in mine if key != "device"}
    return {
        **mine,
        **{key: max(values) for key, values in peaks.items()},
        "per_process": {key: values for key, values in peaks.items() if key != "peak_vram_reserved_gb"},
    }


def describe_batch(trainer: Any) -> dict[str, Any]:
    """Say for the record how many processes made up a step, and of how many rows it was."""
    args = trainer.args
    at_once = args.per_device_train_batch_size * args.world_size
    return {
        "num_processes": args.world_size,
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "global_batch_size": at_once * args.gradient_accumulation_steps,
    }


@contextmanager
def destroy_process_group_on_exit() -> Iterator[None]:
    """Leave the group of processes at the end: its threads may abort an interpreter that ends while they run.

    All wait for each other first, so that none finds another gone while it still needs it; not where a signal ended the
    run, which may have come to one of them only.
    """
    try:
        yield
    except Interrupted:
        _leave(together=False)
        raise
    _leave(together=True)


def _leave(together: bool) -> None:
    if count_processes() > 1:
        from accelerate import PartialState

        state = PartialState()
        if together:
            state.wait_for_everyone()
        state.destroy_process_group()


def _take(file: Any) -> None:
    """Take the lock alone, or, where somebody works already, wait for that and then share it with the others."""
    if not try_lock(file):
        wait_for(file, shared=True)

"""Coordination of a run's processes: data preparation by one first, sums, signals, and a clean end of the group."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.core.cache_folder import cache_folder
from utils.core.locks import acquire_lock, try_lock
from utils.core.signals import Interrupted, interruption_requested
from utils.evaluation.processes import count_processes, gather_lists
from utils.trainer.launch import count_launched

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from transformers import TrainingArguments

logger = logging.getLogger(__name__)

_HEAD_START_S = 1.0
_TASKS = ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Environment variables with the number of tasks that mpirun or srun has started together."""


@contextmanager
def main_process_first(output_dir: str) -> Iterator[None]:
    """Let one process of each machine do the work before the others, which then find it in the cache.

    They wait for a file lock named by the run's folder, not in a collective: hours of tokenizing hit no timeout, and a
    process that dies releases its lock.
    """
    if count_launched() == 1:
        yield
        return
    name = hashlib.sha256(str(Path(output_dir).expanduser().absolute()).encode()).hexdigest()[:24]
    path = cache_folder() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    if int(os.environ.get("LOCAL_RANK", "0")) != 0:
        time.sleep(_HEAD_START_S)  # the first to lock does the work, and only the main process reports it
    with path.open("a", encoding="utf-8") as file:
        if not try_lock(file):  # another process works already: wait for it, then share the lock
            acquire_lock(file, shared=True)
        yield


def announce_processes(args: TrainingArguments) -> None:
    """Log how many processes train, and on which device."""
    several = f" and {args.n_gpu - 1} more GPUs (--gpu starts a process for each)" if args.n_gpu > 1 else ""
    who = "1 process trains" if args.world_size == 1 else f"{args.world_size} processes train, this one"
    logger.info("%s on %s%s", who, args.device, several)
    tasks = {name: os.environ[name] for name in _TASKS if os.environ.get(name, "1") not in ("", "1")}
    if args.world_size == 1 and tasks:
        name, count = next(iter(tasks.items()))
        logger.warning(
            "%s is %s, and WORLD_SIZE is not set: each of these tasks trains its own run; to train one together "
            "use torchrun, or see examples/slurm/train_multi_node.sbatch", name, count,
        )  # fmt: skip


def gather_memory(mine: dict[str, Any]) -> dict[str, Any]:
    """Return this process's `device` and the largest peaks over all processes, in GiB, and each one's peaks by rank."""
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
    """Return the number of processes and the batch sizes for the record."""
    args = trainer.args
    at_once = args.per_device_train_batch_size * args.world_size
    return {
        "num_processes": args.world_size,
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "global_batch_size": at_once * args.gradient_accumulation_steps,
    }


class Sums:
    """Sums of several numbers over batches, starting from `totals`, kept on the device until they are read."""

    def __init__(self, totals: Sequence[float] = (), device: torch.device | None = None) -> None:
        self._totals: torch.Tensor | None = None
        if totals:
            import torch

            self._totals = torch.tensor(totals, dtype=torch.float64, device=device)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return self._totals is None

    def add(self, first: torch.Tensor, *others: torch.Tensor | float) -> None:
        """Add a batch's numbers, scalar tensors or plain ones: always as many, in the same order."""
        import torch

        with torch.no_grad():
            batch = torch.stack(
                [torch.as_tensor(each, dtype=torch.float64, device=first.device) for each in (first, *others)]
            )
        self._totals = batch if self._totals is None else self._totals + batch

    def to_list(self) -> list[float]:
        """Return this process's totals, from which `Sums(...)` continues."""
        return [] if self._totals is None else self._totals.tolist()

    def read(self, accelerator: Accelerator) -> list[float]:
        """Return the totals over all processes; a collective call."""
        totals: list[float] = accelerator.reduce(self._totals, reduction="sum").tolist()
        return totals


def count_real_rows(accelerator: Accelerator, num_rows: int) -> int | None:
    """Count this process's rows of an evaluation's last batch without duplicates; None: all of them.

    With several processes, rows evaluated before pad the last batch.
    """
    state = accelerator.gradient_state
    if accelerator.num_processes == 1 or not state.end_of_dataloader or state.remainder <= 0:
        return None
    mine = int(state.remainder) - int(accelerator.process_index) * num_rows
    return min(max(mine, 0), num_rows)


def any_interrupted(args: TrainingArguments) -> bool:
    """Return whether any process was asked to stop; a collective call."""
    if args.world_size == 1:
        return interruption_requested()
    import torch
    import torch.distributed as dist

    flag = torch.tensor(int(interruption_requested()), device=args.device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


@contextmanager
def destroy_process_group_on_exit() -> Iterator[None]:
    """Destroy the process group at the end: its threads may abort an interpreter that exits while they run.

    The processes wait for each other first, so that none is gone while another needs it, except after a signal, which
    may have reached only one of them.
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

"""The places in which runs are worked on at the same time: one for each GPU, or as many as are asked for."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from utils.cli.command_line import list_gpus

logger = logging.getLogger(__name__)

_LAUNCHER_VARIABLES = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_STEP_NUM_TASKS",
    "PMI_SIZE",
)


@dataclass(frozen=True)
class Slot:
    """One place."""

    index: int
    """From 0."""
    gpu: str | None = None
    """The GPU that a run sees there, as CUDA_VISIBLE_DEVICES names it; None: what there is."""
    num_threads: int | None = None
    """Threads of a run on the processor; None: as the libraries choose."""

    def build_environment(self) -> dict[str, str]:
        """Build the environment of a run: its GPU, its threads, and nothing of a launcher around the suite."""
        environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHER_VARIABLES}
        environment["PYTHONUNBUFFERED"] = "1"
        if self.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.num_threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(self.num_threads))
        return environment


def list_slots(jobs: int | None) -> list[Slot]:
    """List the slots of this machine.

    Args:
        jobs: Runs at the same time; None: one for each visible GPU, or one without GPUs.
    """
    gpus = list_gpus()
    count = jobs or max(len(gpus), 1)
    if gpus:
        if count > len(gpus):
            logger.warning(
                "--jobs %d on %d GPUs: runs share a GPU, so times are not those of a run alone", count, len(gpus)
            )
        return [Slot(index, gpus[index % len(gpus)]) for index in range(count)]
    if count == 1:
        return [Slot(0)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if count > cores:
        logger.warning(
            "--jobs %d on %d cores: runs wait for each other, so times are not those of a run alone", count, cores
        )
    return [Slot(index, num_threads=max(cores // count, 1)) for index in range(count)]

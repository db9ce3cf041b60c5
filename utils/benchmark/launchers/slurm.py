"""A suite as a Slurm job array; directives as in https://slurm.schedmd.com/sbatch.html."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from utils.benchmark.launchers.array_job import WARNING_S, ArraySection, Scheduler, Word, call


class Config(ArraySection):
    """The `launcher:` section of a suite."""

    name: Literal["slurm"] = "slurm"
    partition: Word | None = None
    """Slurm's partition; null: its default."""


def _write_directives(section: Config, suite: str, logs: Path) -> list[str]:
    wanted = {
        "job-name": re.sub(r"\s+", "_", suite),
        "partition": section.partition,
        "account": section.account,
        "time": section.time,
        "nodes": section.nodes,
        "ntasks-per-node": section.processes,
        "cpus-per-task": section.cpus,
        "gpus-per-node": section.gpus or None,
        "mem": section.memory,
        "signal": f"B:TERM@{WARNING_S}",
        "output": shlex.quote(str(logs / "%A_%a.log")),
        "open-mode": "append",
    }
    lines = [*(f"--{name}={value}" for name, value in wanted.items() if value is not None), "--requeue", *section.lines]
    return [f"#SBATCH {line}" for line in lines]


def _write_launch(section: Config) -> list[str]:
    """Let srun start every process itself, so that it forwards signals and returns the run's exit code."""
    numbers = "RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID"
    task = shlex.quote(f'{numbers} exec {shlex.quote(sys.executable)} "$0" "$@"')
    places = (
        "MASTER_ADDR=$head,MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)),"
        f"WORLD_SIZE=$SLURM_NTASKS,LOCAL_WORLD_SIZE={section.processes}"
    )
    return [
        'head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
        f'launch="srun --kill-on-bad-exit=1 --export=ALL,{places} bash -c "{shlex.quote(task)}',
    ]


def _build_submission(section: Config, script: Path, num_runs: int) -> list[str]:
    most = f"%{section.at_once}" if section.at_once else ""
    return ["sbatch", "--parsable", f"--array=1-{num_runs}{most}", str(script)]


def _list_queue(jobs: Sequence[str]) -> dict[str, str]:
    printed = call(["squeue", "--me", "--noheader", "--array", "--format=%F %K %T"])
    found = (line.split() for line in printed.splitlines())
    return {f"{words[0]}[{words[1]}]": words[2] for words in found if len(words) == 3 and words[0] in jobs}


SCHEDULER = Scheduler(
    index="${SLURM_ARRAY_TASK_ID}",
    write_directives=_write_directives,
    write_launch=_write_launch,
    start=lambda _: "",
    requeue='scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"',
    build_submission=_build_submission,
    list_queue=_list_queue,
)

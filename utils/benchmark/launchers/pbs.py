"""A suite as an array of PBS jobs, with the directives of the OpenPBS and PBS Professional guides.

PBS neither requeues a user's job nor warns of its end, so the script measures the time and submits itself again.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from utils.benchmark.launchers.array_job import WARNING_S, ArraySection, Scheduler, Word, call, read_seconds


class Config(ArraySection):
    """The `launcher:` section of a suite."""

    name: Literal["pbs"] = "pbs"
    queue: Word | None = None
    """PBS's queue; null: its default."""


def _write_directives(section: Config, suite: str, logs: Path) -> list[str]:
    chunk = {
        "ncpus": section.processes * (section.cpus or 1),
        "mpiprocs": section.processes,
        "ngpus": section.gpus or None,
        "mem": f"{section.memory.removesuffix('B').lower()}b" if section.memory else None,
    }
    parts = [f"{name}={value}" for name, value in chunk.items() if value is not None]
    seconds = read_seconds(section.time or "0:00:00")
    lines = [
        f"-N {re.sub(r'[^A-Za-z0-9_-]+', '_', suite)[:15]}",
        f"-l select={':'.join([str(section.nodes), *parts])}",
        *(["-l place=scatter"] if section.nodes > 1 else []),
        *([f"-l walltime={seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"] if seconds else []),
        *(f"-{flag} {value}" for flag, value in (("A", section.account), ("q", section.queue)) if value),
        "-r y",
        "-j oe",
        f"-o {shlex.quote(f'{logs}/')}",
        *section.lines,
    ]
    return [f"#PBS {line}" for line in lines]


def _write_launch(section: Config) -> list[str]:
    numbers = "RANK=$OMPI_COMM_WORLD_RANK LOCAL_RANK=$OMPI_COMM_WORLD_LOCAL_RANK WORLD_SIZE=$OMPI_COMM_WORLD_SIZE"
    task = shlex.quote(f'{numbers} exec {shlex.quote(sys.executable)} "$0" "$@"')
    count = f"-np {section.nodes * section.processes} --map-by ppr:{section.processes}:node"
    places = (
        f"-x LOCAL_WORLD_SIZE={section.processes} -x MASTER_ADDR=$head "
        "-x MASTER_PORT=$((20000 + ${PBS_JOBID%%[!0-9]*} % 20000))"
    )
    return ['head="$(head -n 1 "$PBS_NODEFILE")"', f'launch="mpirun {count} {places} bash -c "{shlex.quote(task)}']


def _start(section: Config) -> str:
    if section.time is None:
        return ""
    return f"timeout --preserve-status --signal=TERM {read_seconds(section.time) - WARNING_S} "


def _build_submission(section: Config, script: Path, num_runs: int) -> list[str]:
    most = f"%{section.at_once}" if section.at_once else ""
    array = ["-J", f"1-{num_runs}{most}"] if num_runs > 1 else []  # PBS does not support an array of one
    return ["qsub", *array, str(script)]


def _list_queue(jobs: Sequence[str]) -> dict[str, str]:
    lines = (line.split() for line in call(["qstat", "-t"]).splitlines())
    found = ((re.match(r"(\d+)(?:\[(\d+)\])?", words[0]), words[4]) for words in lines if len(words) == 6)
    states = {f"{key[1]}[{key[2] or 1}]": state for key, state in found if key and key[1] in jobs}
    return {key: state for key, state in states.items() if state not in "XFE"}


SCHEDULER = Scheduler(
    index="${PBS_ARRAY_INDEX:-1}",
    write_directives=_write_directives,
    write_launch=_write_launch,
    start=_start,
    requeue=(
        'job="$(qsub -v "RUN=$run" "$script")"; '
        'job="${job%%[!0-9]*}"; '
        'printf \'{"launcher": "pbs", "job": "%s", "runs": ["%s"]}\\n\' "$job" "$run" > "${script%.sh}.$job.json"'
    ),
    build_submission=_build_submission,
    list_queue=_list_queue,
)

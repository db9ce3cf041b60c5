"""An attempt at a run: on a GPU or some cores of this machine, in a process with a log, forked or new.

Each attempt has its time limit, and leaves a note of how it ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from utils.benchmark.plan import PlannedRun
from utils.benchmark.state import (
    RunState,
    RunStatus,
    choose_resume_flags,
    find_state,
    is_finished,
    lock_of_run,
    take_lock,
    write_state,
)
from utils.benchmark.warm_start import ForkedRun, WarmProcess
from utils.cli.command_line import list_gpus
from utils.config.yaml_text import dump_yaml
from utils.core.errors import EXIT_INTERRUPTED, EXIT_REQUEUE
from utils.core.project import ROOT
from utils.core.replace_file import replace_text
from utils.results.provenance import format_time
from utils.trainer.tracking import SUITE_VARIABLES

GRACE_S = 15.0
"""Seconds that a run has to end by itself after it was asked to."""

_LAUNCHER_VARIABLES = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS", "PMI_SIZE",
)  # fmt: skip

_LAUNCH_MODULES = {"accelerate launch": "accelerate.commands.launch", "torchrun": "torch.distributed.run"}
_PASSES_USR1_ON = ("srun", "mpirun", "mpiexec")
"""These pass SIGUSR1 on to the processes of a run, and keep SIGINT for themselves."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """A place where one run at a time is worked on."""

    index: int
    """From 0."""
    gpu: str | None = None
    """The GPU that a run sees there, as CUDA_VISIBLE_DEVICES names it; None: what there is."""
    num_threads: int | None = None
    """Threads of a run on the processor; None: as the libraries choose."""
    suite: str | None = None
    """Under which name trackers collect the runs; None: none that is given here."""

    def build_environment(self) -> dict[str, str]:
        """Build the environment of a run: its GPU, its threads, and nothing of a launcher around the suite."""
        # A launcher that started the suite must not make its runs believe that they are ranks of one job.
        environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHER_VARIABLES}
        environment["PYTHONUNBUFFERED"] = "1"
        if self.suite is not None:
            for name in SUITE_VARIABLES:
                environment.setdefault(name, self.suite)
        if self.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.num_threads is not None:
            # What the user has set wins.
            environment.setdefault("OMP_NUM_THREADS", str(self.num_threads))
        return environment


def list_slots(jobs: int | None, shares: bool = True) -> list[Slot]:
    """List the slots of this machine for so many runs at the same time; None: one for each visible GPU, or one.

    Without `shares` a run sees all GPUs, since it trains on several, and it runs alone unless `jobs` says otherwise.
    """
    gpus = list_gpus() if shares else []
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


@dataclass
class Attempt:
    """A process that works on a run."""

    run: PlannedRun
    slot: Slot
    process: subprocess.Popen[bytes] | ForkedRun
    state: RunState
    started: float
    """By the monotonic clock."""
    timeout_s: float | None
    _lock: IO[str] = field(repr=False)
    retries_left: int = 0
    _asked_to_stop: RunStatus | None = None
    _kill_at: float = float("inf")

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return time.monotonic() - self.started

    def poll(self) -> RunState | None:
        """Look after the process: None while it works, how it ended when it has."""
        if self._asked_to_stop is None and self.timeout_s is not None and self.seconds > self.timeout_s:
            self.stop("timed out")
        if time.monotonic() > self._kill_at:
            self._signal(signal.SIGKILL)
        code = self.process.poll()
        return None if code is None else self._finish(code)

    def stop(self, status: RunStatus, grace_s: float = GRACE_S) -> None:
        """Ask the process to stop as by Ctrl-C, and kill it when it does not within the grace; 0 kills at once.

        The first status that is given is noted of the run.
        """
        self._asked_to_stop = self._asked_to_stop or status
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)
        gentle = signal.SIGUSR1 if (self.run.launch or "").startswith(_PASSES_USR1_ON) else signal.SIGINT
        self._signal(gentle if grace_s else signal.SIGKILL)

    def _signal(self, number: int) -> None:
        """Reach the run and whatever it started: it leads a session of its own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended
            os.killpg(self.process.pid, number)

    def _finish(self, code: int) -> RunState:
        self._signal(signal.SIGKILL)  # whatever the run started and left behind, such as data loaders
        status, note = self._judge(code)
        attempts = self.state.attempts + (status in ("failed", "timed out"))
        ended = format_time(datetime.now(timezone.utc))
        state = replace(self.state, status=status, exit_code=code, ended=ended, note=note, attempts=attempts)
        write_state(self.run.folder, state)
        self._lock.close()
        return state

    def _judge(self, code: int) -> tuple[RunStatus, str]:
        if is_finished(self.run):  # also where it ended just before it was stopped
            return "success", ""
        if self._asked_to_stop == "timed out":
            return "timed out", f"stopped after {self.timeout_s or 0:g} s (timeout_minutes)"
        if self._asked_to_stop is not None:
            return "interrupted", "the suite was stopped while it ran"
        if code in (EXIT_REQUEUE, EXIT_INTERRUPTED):
            return "interrupted", "the run itself was asked to stop; the same command goes on"
        if code < 0:
            hint = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
            return "failed", f"killed by {signal.Signals(-code).name}{hint}"
        return "failed", "" if code else "ended without a record of success"  # the record or the log says why


def start_attempt(
    run: PlannedRun, slot: Slot, timeout_s: float | None, retries_left: int = 0, warm: WarmProcess | None = None
) -> Attempt | None:
    """Start a run in a process that leads its own session, writes to its own log, and dies with this one.

    `warm` forks it where it can. None when another suite is at work on this very run.

    Raises:
        UserError: The suite's folder cannot be written.
    """
    lock = take_lock(lock_of_run(run.folder))
    if lock is None:
        return None
    # Both are read before the note says running.
    flags = choose_resume_flags(run)
    before = find_state(run)
    run.log.parent.mkdir(parents=True, exist_ok=True)
    replace_text(run.config_file, dump_yaml(run.config))
    now = format_time(datetime.now(timezone.utc))
    state = RunState("running", run.fingerprint, attempts=before.attempts if before else 0, started=now)
    command = [*_split_launch(run), str(ROOT / "train.py"), "--config", str(run.config_file), *flags]
    with run.log.open("ab") as log:
        shown = command[1:] if command[0] == "-" else ["python", *command]
        log.write(f"--- {now}  {shlex.join(shown)}\n".encode())
    write_state(run.folder, state)
    environment = slot.build_environment()
    process = warm.start(command, run.log, environment) if warm and not run.launch else None
    started = process or _start_process(command, run.log, environment)
    return Attempt(run, slot, started, state, time.monotonic(), timeout_s, lock, retries_left)


def _split_launch(run: PlannedRun) -> list[str]:
    """Split what starts the processes of a run; accelerate and torchrun are those of this interpreter."""
    words = shlex.split(run.launch or "")
    for name, module in _LAUNCH_MODULES.items():
        if words[: len(name.split())] == name.split():
            return ["-m", module, *words[len(name.split()) :]]
    return ["-", *words] if words else []  # child.py's sign of another command than Python's


def _start_process(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    # -I -S: the child becomes train.py at once, so nothing of the user's site packages is imported before.
    child = [sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py")), str(os.getpid())]
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603  our own command
            [*child, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

"""An attempt at a run, on a GPU or some cores of this machine, in a forked or new process with a log.

Each attempt has a time limit, and leaves a note of how it ended.
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
from utils.cli.gpus import list_gpus
from utils.config.yaml_text import dump_yaml
from utils.core.cores import count_cores
from utils.core.errors import EXIT_INTERRUPTED, EXIT_REQUEUE
from utils.core.project import ROOT
from utils.core.replace_file import replace_text
from utils.results.provenance import format_time
from utils.trainer.tracking import SUITE_VARIABLES

GRACE_S = 15.0
"""Seconds that a run has to exit after it was asked to."""

_LAUNCHER_VARIABLES = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_STEP_NUM_TASKS", "PMI_SIZE",
)  # fmt: skip

_LAUNCH_MODULES = {"accelerate launch": "accelerate.commands.launch", "torchrun": "torch.distributed.run"}
_PASSES_USR1_ON = ("srun", "mpirun", "mpiexec")
"""Launchers that forward SIGUSR1 to the processes of a run, and handle SIGINT themselves."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """A slot for one run at a time."""

    index: int
    """Index from 0."""
    gpu: str | None = None
    """The run's CUDA_VISIBLE_DEVICES; None: all devices."""
    num_threads: int | None = None
    """CPU threads of a run; None: the libraries' default."""
    suite: str | None = None
    """Name under which trackers group the runs; None: not set here."""

    def build_environment(self) -> dict[str, str]:
        """Build the environment of a run: its GPU and threads, without variables of a launcher around the suite."""
        # Runs must not take a launcher's variables for those of their own process group.
        environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHER_VARIABLES}
        environment["PYTHONUNBUFFERED"] = "1"
        if self.suite is not None:
            for name in SUITE_VARIABLES:
                environment.setdefault(name, self.suite)
        if self.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu
        if self.num_threads is not None:
            # The user's own values win.
            environment.setdefault("OMP_NUM_THREADS", str(self.num_threads))
        return environment


def list_slots(jobs: int | None, shares: bool = True) -> list[Slot]:
    """List the slots of this machine for `jobs` runs at the same time; None: one per visible GPU, or one.

    Without `shares` a run uses all GPUs, and runs alone unless `jobs` says otherwise.
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
    cores = count_cores()
    if count > cores:
        logger.warning(
            "--jobs %d on %d cores: runs wait for each other, so times are not those of a run alone", count, cores
        )
    return [Slot(index, num_threads=max(cores // count, 1)) for index in range(count)]


@dataclass
class Attempt:
    """A process of a run."""

    run: PlannedRun
    slot: Slot
    process: subprocess.Popen[bytes] | ForkedRun
    state: RunState
    started: float
    """Start on the monotonic clock."""
    timeout_s: float | None
    _lock: IO[str] = field(repr=False)
    retries_left: int = 0
    _asked_to_stop: RunStatus | None = None
    _kill_at: float = float("inf")

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def poll(self) -> RunState | None:
        """Check the process: None while it runs, else its final state."""
        if self._asked_to_stop is None and self.timeout_s is not None and self.seconds > self.timeout_s:
            self.stop("timed out")
        if time.monotonic() > self._kill_at:
            self._signal(signal.SIGKILL)
        code = self.process.poll()
        return None if code is None else self._finish(code)

    def stop(self, status: RunStatus, grace_s: float = GRACE_S) -> None:
        """Ask the process to stop, as Ctrl-C does, and kill it if it does not within the grace period; 0 kills at once.

        The first status given is recorded for the run.
        """
        self._asked_to_stop = self._asked_to_stop or status
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)
        gentle = signal.SIGUSR1 if (self.run.launch or "").startswith(_PASSES_USR1_ON) else signal.SIGINT
        self._signal(gentle if grace_s else signal.SIGKILL)

    def _signal(self, number: int) -> None:
        """Signal the run's session, which includes all processes it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended
            os.killpg(self.process.pid, number)

    def _finish(self, code: int) -> RunState:
        self._signal(signal.SIGKILL)  # processes that the run left behind, such as data loaders
        status, note = self._judge(code)
        attempts = self.state.attempts + (status in ("failed", "timed out"))
        ended = format_time(datetime.now(timezone.utc))
        state = replace(self.state, status=status, exit_code=code, ended=ended, note=note, attempts=attempts)
        write_state(self.run.folder, state)
        self._lock.close()
        return state

    def _judge(self, code: int) -> tuple[RunStatus, str]:
        if is_finished(self.run):  # also if it finished just before it was stopped
            return "success", ""
        if self._asked_to_stop == "timed out":
            return "timed out", f"stopped after {self.timeout_s or 0:g} s (timeout_minutes)"
        if self._asked_to_stop is not None:
            return "interrupted", "the suite was stopped while it ran"
        if code in (EXIT_REQUEUE, EXIT_INTERRUPTED):
            return "interrupted", "the run itself was asked to stop; the same command continues it"
        if code < 0:
            hint = "; the machine may have run out of memory" if -code == signal.SIGKILL else ""
            return "failed", f"killed by {signal.Signals(-code).name}{hint}"
        return "failed", "" if code else "ended without a record of success"  # the record or the log has the reason


def start_attempt(
    run: PlannedRun, slot: Slot, timeout_s: float | None, retries_left: int = 0, warm: WarmProcess | None = None
) -> Attempt | None:
    """Start a run in its own session, with its own log, in a process that is killed if this one ends.

    `warm` forks it if possible. Returns None if another suite is working on the same run.

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
    """Split the command that starts a run's processes; accelerate and torchrun are this interpreter's."""
    words = shlex.split(run.launch or "")
    for name, module in _LAUNCH_MODULES.items():
        if words[: len(name.split())] == name.split():
            return ["-m", module, *words[len(name.split()) :]]
    return ["-", *words] if words else []  # tells child.py that the command is not Python's


def _start_process(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    # -I -S: the child execs train.py at once, and needs no site packages.
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

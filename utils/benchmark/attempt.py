"""One attempt at a run: a process of its own with its log, its time limit, and a note of how it ended."""

from __future__ import annotations

import contextlib
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
from utils.benchmark.slots import Slot
from utils.benchmark.state import RunState, RunStatus, lock_of_run, take_lock, write_state
from utils.benchmark.status import choose_resume_flags, find_state, is_finished
from utils.config.yaml_text import dump_yaml
from utils.core.errors import EXIT_INTERRUPTED, EXIT_REQUEUE
from utils.results.json_file import replace_file
from utils.results.provenance import format_time

PROJECT = Path(__file__).resolve().parents[2]
GRACE_S = 15.0
"""Seconds that a run has to end by itself after it was asked to."""


@dataclass
class Attempt:
    """A process that works on a run."""

    run: PlannedRun
    slot: Slot
    process: subprocess.Popen[bytes]
    state: RunState
    started: float
    """By the monotonic clock."""
    timeout_s: float | None
    _lock: IO[str] = field(repr=False)
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
        return None if self.process.poll() is None else self._finish(self.process.returncode)

    def stop(self, status: RunStatus, grace_s: float = GRACE_S) -> None:
        """Ask the process to stop as by Ctrl-C; it is killed when it does not within the grace.

        Args:
            status: What is noted of the run.
            grace_s: Seconds; 0 kills at once.
        """
        self._asked_to_stop = self._asked_to_stop or status
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)
        self._signal(signal.SIGINT if grace_s else signal.SIGKILL)

    def _signal(self, number: int) -> None:
        """Reach the run and whatever it started: it leads a session of its own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended
            os.killpg(self.process.pid, number)

    def _finish(self, code: int) -> RunState:
        self._signal(signal.SIGKILL)
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


def start_attempt(run: PlannedRun, slot: Slot, timeout_s: float | None) -> Attempt | None:
    """Start a run in a process that leads its own session, writes to its own log, and dies with this one.

    Args:
        run: The run.
        slot: Where it works.
        timeout_s: Seconds it may take; None: any.

    Returns:
        The attempt; None when another suite is at work on this very run.

    Raises:
        UserError: The suite's folder cannot be written.
    """
    lock = take_lock(lock_of_run(run.folder))
    if lock is None:
        return None
    flags = choose_resume_flags(run)
    before = find_state(run)
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(run.config_file) as beside:
        beside.write_text(dump_yaml(run.config), encoding="utf-8")
    now = format_time(datetime.now(timezone.utc))
    state = RunState("running", run.fingerprint, attempts=before.attempts if before else 0, started=now)
    command = [str(PROJECT / "train.py"), "--config", str(run.config_file), *flags]
    with run.log.open("ab") as log:
        log.write(f"--- {now}  {shlex.join(['python', *command])}\n".encode())
        log.flush()
        write_state(run.folder, state)
        child = [sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py")), str(os.getpid())]
        process = subprocess.Popen(  # noqa: S603  our own command
            [*child, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=slot.build_environment(),
            start_new_session=True,
        )
    return Attempt(run, slot, process, state, time.monotonic(), timeout_s, lock)

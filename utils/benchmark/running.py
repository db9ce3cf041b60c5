"""Works on the runs of a suite: as many at a time as there are slots, until all are done or somebody stops it."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from utils.benchmark.attempt import Attempt, start_attempt
from utils.benchmark.live import Board
from utils.benchmark.plan import PlannedRun
from utils.benchmark.slots import Slot
from utils.benchmark.standing import find_standing

_TICK_S = 0.1


@dataclass(frozen=True)
class Rules:
    """How runs are treated."""

    slots: Sequence[Slot]
    timeout_s: float | None = None
    """A run that takes longer is stopped; None: never."""
    retries: int = 0
    """Further attempts at a run that fails, and at one that failed in an earlier call."""


class Runner:
    """Starts, watches and ends the processes of the runs.

    Args:
        runs: The runs that are wanted.
        rules: How they are treated.
        board: Is told of all that happens.
    """

    def __init__(self, runs: Sequence[PlannedRun], rules: Rules, board: Board) -> None:
        self._rules = rules
        self._board = board
        self._waiting: deque[tuple[PlannedRun, int]] = deque()
        self._active: list[Attempt] = []
        self._left: dict[int, int] = {}
        for run in runs:
            standing = find_standing(run)
            if standing == "done":
                board.skip(run, "done", "done already (the same configuration)")
            elif standing in ("failed", "timed out") and not rules.retries:
                board.skip(run, standing, f"{standing} before; --retry tries it again")
            else:
                is_retry = standing in ("failed", "timed out")
                self._waiting.append((run, rules.retries - is_retry))

    def work(self) -> bool:
        """Work until every run has ended, or Ctrl-C or a scheduler's SIGTERM; then the processes are stopped.

        Returns:
            Whether all runs have come to their end.
        """
        with _count_interruptions() as interruptions:
            try:
                while (self._waiting or self._active) and not interruptions:
                    self._fill_slots()
                    self._look_after()
                    self._board.show(self._active, len(self._waiting))
                    time.sleep(_TICK_S)
                if interruptions:
                    self._stop_all(interruptions)
            finally:
                for attempt in self._active:  # none is left but after a mistake of ours
                    attempt.stop("interrupted", grace_s=0)
        return not interruptions

    def _fill_slots(self) -> None:
        taken = {attempt.slot for attempt in self._active}
        for slot in self._rules.slots:
            if slot not in taken and self._waiting:
                run, left = self._waiting.popleft()
                attempt = start_attempt(run, slot, self._rules.timeout_s)
                if attempt is None:
                    self._board.skip(run, "running", "another suite is at work on it")
                    continue
                self._active.append(attempt)
                self._left[id(attempt)] = left
                self._board.start(attempt)

    def _look_after(self) -> None:
        for attempt in [*self._active]:
            state = attempt.poll()
            if state is None:
                continue
            self._active.remove(attempt)
            left = self._left.pop(id(attempt))
            again = state.status in ("failed", "timed out") and left > 0
            self._board.end(attempt, state, again)
            if again:
                self._waiting.append((attempt.run, left - 1))

    def _stop_all(self, interruptions: list[int]) -> None:
        """Stop the processes gently, at once when Ctrl-C comes a second time; what they had is kept."""
        self._board.stop(len(self._active))
        for attempt in self._active:
            attempt.stop("interrupted")
        while self._active:
            if len(interruptions) > 1:
                for attempt in self._active:
                    attempt.stop("interrupted", grace_s=0)
            self._look_after()
            time.sleep(_TICK_S)


@contextmanager
def _count_interruptions() -> Iterator[list[int]]:
    """Note Ctrl-C and a scheduler's SIGTERM for the loop to see, so that none falls between a process and its note."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Progress of long work: a live line on a terminal, otherwise an occasional log line.

The live line can be disabled by TQDM_DISABLE, tqdm's own switch, or `training.disable_tqdm`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from utils.core.logs import is_main_process
from utils.core.terminal import build_console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BEFORE_BAR = 0.5  # shorter work shows no live line


def shows_bars() -> bool:
    """Return whether live lines are shown: standard error is a terminal, and they are not disabled."""
    return is_main_process() and sys.stderr.isatty() and os.environ.get("TQDM_DISABLE", "0") in ("", "0", "false")


def build_bar() -> Progress:
    """Build a progress display: description, bar, counts, the task field `numbers`, elapsed and remaining time."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=build_console(stderr=True), transient=True,
    )  # fmt: skip


def format_duration(seconds: float) -> str:
    """Format seconds as `9:05`, or `1:09:05` from one hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class RowProgress:
    """Counts rows and tokens and shows the progress; use it as a context manager.

    Rows completed by an earlier call (`num_done`) count toward the total but not the rates. `count_all` returns the
    total number of rows, or None if unknown; it is called when progress is first shown.
    """

    def __init__(self, what: str, count_all: Callable[[], int | None], num_done: int = 0, live: bool = True) -> None:
        self._what, self._count_all, self._num_before = what, count_all, num_done
        self._is_live = live and shows_bars()
        self._start = self._last = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self.num_rows = 0
        """Rows since the start."""
        self.num_tokens = 0

    def __enter__(self) -> RowProgress:
        if self._is_live:
            self._open_bar()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def num_done(self) -> int:
        """All completed rows, including those of an earlier call."""
        return self._num_before + self.num_rows

    @property
    def seconds(self) -> float:
        """Seconds since the start; never 0."""
        return max(time.monotonic() - self._start, 1e-9)

    def advance(self, num_rows: int, num_tokens: int = 0) -> None:
        """Count the rows and tokens of a batch."""
        self.num_rows += num_rows
        self.num_tokens += num_tokens
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.num_done, numbers=self.describe_rates())
        elif self._is_live:
            if self.seconds >= _SECONDS_BEFORE_BAR:
                self._open_bar()
        elif time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES and is_main_process():
            self._last = time.monotonic()
            logger.info("%s", self._describe())

    def close(self) -> None:
        """Remove the live line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar, self._is_live = None, False

    def describe_rates(self) -> str:
        """Format the rows and tokens per second."""
        tokens = f", {self.num_tokens / self.seconds:,.0f} tokens/s" if self.num_tokens else ""
        return f"{self.num_rows / self.seconds:,.1f} rows/s{tokens}"

    def _open_bar(self) -> None:
        self._bar = build_bar()
        numbers = self.describe_rates()
        self._task = self._bar.add_task(self._what, total=self._total, completed=self.num_done, numbers=numbers)
        self._bar.start()

    @cached_property
    def _total(self) -> int | None:
        return self._count_all()

    def _describe(self) -> str:
        total, done = self._total, self.num_done
        if total is None:
            return f"{self._what}: {done:,} rows, {self.describe_rates()}"
        left = int(self.seconds / max(self.num_rows, 1) * max(total - done, 0))
        return f"{self._what}: {done:,} of {total:,} rows, {self.describe_rates()}, eta {format_duration(left)}"

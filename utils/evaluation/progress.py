"""The progress of an evaluation: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from utils.core.terminal import build_console

logger = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def show_progress(label: str, total: int, done: int, is_main: bool) -> Iterator[Callable[[int, int], None]]:
    """Show how many rows are answered; gives the function to call with the rows and tokens of each batch.

    Args:
        label: Name of the set.
        total: Rows in all.
        done: Rows answered before.
        is_main: Other processes show nothing.
    """
    if not is_main:
        yield lambda num_rows, num_tokens: None
    elif sys.stderr.isatty():
        with Progress(
            TextColumn(f"evaluating {label}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(), TimeRemainingColumn(), console=build_console(stderr=True),
        ) as bar:  # fmt: skip
            task = bar.add_task(label, total=total, completed=done, rate="")
            rate = _Rate()
            yield lambda num_rows, num_tokens: bar.update(task, advance=num_rows, rate=rate.add(num_tokens))
    else:
        yield _Lines(label, total, done).add


class _Rate:
    def __init__(self) -> None:
        self._start, self._tokens = time.monotonic(), 0

    def add(self, num_tokens: int) -> str:
        self._tokens += num_tokens
        return f"{self._tokens / max(time.monotonic() - self._start, 1e-9):,.0f} tokens/s"


class _Lines:
    def __init__(self, label: str, total: int, done: int) -> None:
        self._label, self._total, self._done = label, total, done
        self._rate, self._last = _Rate(), time.monotonic()

    def add(self, num_rows: int, num_tokens: int) -> None:
        self._done += num_rows
        rate = self._rate.add(num_tokens)
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            logger.info("evaluating %s: %d of %d rows, %s", self._label, self._done, self._total, rate)
            self._last = time.monotonic()

"""How far a call is: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN = {True: 0.2, False: 10.0}
_WIDTH = 79


class Progress:
    """Counts rows and tokens on standard error.

    Args:
        num_kept: Rows that an earlier call answered.
    """

    def __init__(self, num_kept: int = 0) -> None:
        self._is_live = sys.stderr.isatty()
        self._num_kept = num_kept
        self._start = self._last = time.monotonic()
        self.num_rows = 0
        """Rows of this call, those too that could not be answered."""
        self.num_tokens = 0
        """Tokens read (classification) or written (generation) in this call."""

    def add(self, num_rows: int, num_tokens: int) -> None:
        """Count the rows and tokens of a batch."""
        self.num_rows += num_rows
        self.num_tokens += num_tokens
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN[self._is_live]:
            self._last = now
            self._show(self._describe())

    def finish(self) -> dict[str, float]:
        """Say what was done; gives the rates."""
        if self._is_live:
            sys.stderr.write(f"\r{'':{_WIDTH}}\r")
        if self.num_rows:
            logger.info("%s", self._describe())
        seconds = self._seconds
        rates = {"rows_per_s": self.num_rows / seconds, "tokens_per_s": self.num_tokens / seconds}
        return {"seconds": round(seconds, 3), **{name: round(rate, 1) for name, rate in rates.items()}}

    @property
    def _seconds(self) -> float:
        return max(time.monotonic() - self._start, 1e-9)

    def _describe(self) -> str:
        rows = f"{self._num_kept + self.num_rows:,} rows done"
        rates = f"{self.num_rows / self._seconds:,.1f} rows/s, {self.num_tokens / self._seconds:,.0f} tokens/s"
        return f"{rows}, {rates}"

    def _show(self, line: str) -> None:
        if self._is_live:
            sys.stderr.write(f"\r{line:{_WIDTH}}")
            sys.stderr.flush()
        else:
            logger.info("%s", line)

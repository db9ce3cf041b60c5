"""Show a suite's progress: a live table on a terminal, elsewhere a line per event."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from utils.benchmark.attempt import Attempt
from utils.benchmark.outcomes import collect_outcomes, read_last_lines
from utils.benchmark.plan import PlannedRun
from utils.benchmark.state import PlannedStatus, RunState
from utils.core.progress import format_duration
from utils.results.labels import is_score, scale

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_STYLES = {"success": "green", "done": "green", "failed": "red", "timed out": "red", "interrupted": "yellow"}
_REFRESH_S = 0.5
_NUM_LAST = 8


class ProgressDisplay:
    """Shows on a terminal, or in a log, the progress of the `total` selected runs."""

    def __init__(self, total: int, console: Console) -> None:
        self._total = total
        self._console = console
        self._counts: Counter[str] = Counter()
        self._last: list[tuple[str, str, str, str]] = []
        self._shown_at = 0.0
        self._live = None
        if console.is_terminal:
            from rich.live import Live

            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()

    def close(self) -> None:
        """Restore the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def skip(self, run: PlannedRun, status: PlannedStatus, why: str) -> None:
        """Report that a run is not started, and why."""
        self._counts[status] += 1
        self._say(run.name, status, why)

    def start(self, attempt: Attempt) -> None:
        """Report the start of a run."""
        where = f"on GPU {attempt.slot.gpu}, " if attempt.slot.gpu is not None else ""
        if self._live is None:
            self._say(attempt.run.name, "started", f"{where}log: {attempt.run.log}")

    def end(self, attempt: Attempt, state: RunState, again: bool) -> None:
        """Report the end of a run."""
        text = _write_outcome(attempt.run)
        if again:
            text += "; it is tried again"
        else:
            self._counts[state.status] += 1
        self._say(attempt.run.name, state.status, text, format_duration(attempt.seconds))

    def stop(self, active: int) -> None:
        """Report that the processes are being stopped."""
        self._say("", "interrupted", f"stopping what runs ({active}); Ctrl-C again kills at once")

    def show(self, active: Sequence[Attempt], waiting: int) -> None:
        """Redraw the table, twice a second."""
        if self._live is not None and time.monotonic() - self._shown_at >= _REFRESH_S:
            self._shown_at = time.monotonic()
            self._live.update(self._render(active, waiting), refresh=True)

    def _say(self, name: str, status: str, text: str, took: str = "") -> None:
        self._last = [*self._last[1 - _NUM_LAST :], (name, status, took, text)]
        if self._live is None:
            number = f"[{sum(self._counts.values())}/{self._total}] " if name else ""
            line = "  ".join(filter(None, (f"{number}{name}{': ' if name else ''}{status}", took, text)))
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _render(self, active: Sequence[Attempt], waiting: int) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        counts = ", ".join(f"{count} {status}" for status, count in self._counts.items())
        title = f"{self._total} runs: {counts or 'none ended'}, {len(active)} at work, {waiting} waiting"
        table = Table(title=Text(title), title_justify="left", box=box.SIMPLE, expand=True)
        for column in ("run", "status", "time", "score, or how far it is"):
            table.add_column(column, no_wrap=True, overflow="ellipsis")
        rows = [*self._last]
        for each in active:
            rows.append((each.run.name, "at work", format_duration(each.seconds), _read_progress(each.run.log)))
        for name, status, seconds, text in rows:
            table.add_row(name, Text(status, style=_STYLES.get(status, "")), seconds, Text(text))
        return table


def _write_outcome(run: PlannedRun) -> str:
    """Format a run's score, or why it has none."""
    (outcome,) = collect_outcomes([run])
    name, value = outcome.record.read_headline() if outcome.record is not None else (None, None)
    if outcome.status != "success" or name is None or value is None:
        return outcome.note
    return f"{name} {scale(name, value):.2f}{' %' if is_score(name) else ''}"


def _read_progress(log: Path) -> str:
    """Read a run's progress from the end of its log."""
    lines = [line for line in read_last_lines(log) if not line.startswith("---")]
    return next((line for line in lines if line.startswith("step ")), next(iter(lines), ""))[:100]

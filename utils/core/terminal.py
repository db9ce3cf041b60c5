"""The single place for terminal output, which masks secrets and escapes control codes in data."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from utils.core.secrets import mask_text

if TYPE_CHECKING:
    from rich.console import Console

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""All control characters but tab and newline, and those that change the text direction."""
_BAR = re.compile("\r([^\r\n]*)(\r?)|(?:\n|\x1b\\[A)+")
"""Writes of a library's progress bar: a line from its start, or moves between lines."""


def show_controls(text: str) -> str:
    r"""Escape control codes as `\u001b`, so that they are displayed, not executed; JSON strings stay equivalent."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def write_data(text: str) -> None:
    """Write rows to standard output without masking, since the data is the user's own."""
    inner = getattr(sys.stdout, "inner", sys.stdout)
    inner.write(show_controls(text))
    inner.flush()


def build_console(stderr: bool = False) -> Console:
    """Build a console for tables and live lines, with the same masking and escaping."""
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            """Sanitize every piece of text; the console's own codes stay."""
            for segment in super().render(renderable, options):
                text = segment.text if segment.control else show_controls(mask_text(segment.text))
                yield Segment(text, segment.style, segment.control)

    stream = sys.stderr if stderr else sys.stdout
    return SafeConsole(file=getattr(stream, "inner", stream), stderr=stderr)


def open_missing_streams() -> None:
    """Open the null device for standard streams that are closed: the next file opened would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))


def reserve_stdout() -> TextIO:
    """Reserve standard output for the JSON object, redirecting other output to standard error."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout.flush()
    os.dup2(2, 1)
    return kept


@contextmanager
def safe_streams() -> Iterator[None]:
    """Route everything printed inside the context through this module."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _SafeStream(each)) for each in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _SafeStream:
    """A standard stream that sanitizes writes and delegates everything else."""

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        """Write text without secrets and control codes; a progress bar may return to the start of its line."""
        shown = mask_text(text)
        if (bar := _BAR.fullmatch(shown)) is None:
            shown = show_controls(shown)
        elif bar[1] is not None:
            shown = f"\r{show_controls(bar[1])}{bar[2]}"
        self.inner.write(shown)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several strings."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

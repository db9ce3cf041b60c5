"""The one place where text is put on the terminal: without secrets, and without control codes of the data."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, cast

from utils.core.secrets import mask_text

if TYPE_CHECKING:
    from rich.console import Console

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""All but tab and newline; with the signs that turn the direction of what follows."""
_BAR = re.compile("\r([^\r\n]*)(\r?)|(?:\n|\x1b\\[A)+")
"""What a library's progress bar writes at a time: a line from its start, or steps between lines."""


def show_controls(text: str) -> str:
    r"""Write control codes as `\u001b`, so that they are seen and not obeyed; in JSON that is the same text."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def write_data(text: str) -> None:
    """Write rows on standard output: they are the user's own, so that nothing in them is taken for a secret."""
    inner = getattr(sys.stdout, "inner", sys.stdout)
    inner.write(show_controls(text))
    inner.flush()


def build_console(stderr: bool = False) -> Console:
    """Build a console for tables and live lines, whose texts are shown as everything else is."""
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            """Clean every piece of text; the console's own codes stay."""
            for segment in super().render(renderable, options):
                text = segment.text if segment.control else show_controls(mask_text(segment.text))
                yield Segment(text, segment.style, segment.control)

    stream = sys.stderr if stderr else sys.stdout
    return SafeConsole(file=getattr(stream, "inner", stream), stderr=stderr)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Let all that is printed meanwhile pass through here."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _SafeStream(each)) for each in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _SafeStream:
    """A standard stream; whatever is not writing is its own affair."""

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        """Write without secrets and control codes; a progress bar may go back to the start of its line."""
        shown = mask_text(text)
        if (bar := _BAR.fullmatch(shown)) is None:
            shown = show_controls(shown)
        elif bar[1] is not None:
            shown = f"\r{show_controls(bar[1])}{bar[2]}"
        self.inner.write(shown)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

"""Moves keys of a document and takes keys out, with a notice of each, or a problem where two say one thing."""

from __future__ import annotations

from typing import Any

from utils.config.document import Document, KeyPath, SourceLocation
from utils.core.errors import Problem


class Rewriter:
    """Rewrites a document in place and collects what it did."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.notices: list[str] = []
        self.problems: list[Problem] = []

    def _leave_out(self, path: KeyPath, reason: str) -> tuple[SourceLocation, Any]:
        place, value = self._place(path), self.document.remove(path)
        self.notices.append(f"{place}  {'.'.join(path)}: {reason}")
        return place, value

    def _move(self, old: KeyPath, new: KeyPath, *value: Any, agreeing: bool = False) -> None:
        """Move a key, with another value where one is given; of two keys the one in the upper layer counts.

        Args:
            old: Where it may be written.
            new: Where it belongs.
            *value: What is written there instead.
            agreeing: Two keys of one layer with the same value are no mistake.
        """
        if not self.document.has(old):
            return
        if self.document.overrides(old, new) and self.document.has(new):
            self.document.remove(new)
        elif self.document.overrides(new, old):
            self._fill_gaps(old, new)
            return
        if agreeing and self.document.has(new) and self.document.get(new) == self.document.get(old):
            self._leave_out(old, f"the same as {'.'.join(new)}; left out")
            return
        place, written = self._place(old), self.document.get(new[:-1], {})
        if self.document.has(new) or not isinstance(written, (dict, type(None))):
            self.document.remove(old)
            taken = new if self.document.has(new) else new[:-1]
            self._report(old, place, f"two names for one setting; {'.'.join(taken)} is written too: keep that one")
            return
        self.document.move(old, new)
        if value:
            self.document.set(new, value[0], place)
        self.notices.append(f"{place}  {'.'.join(old)}: now called {'.'.join(new)}; read as that")

    def _fill_gaps(self, old: KeyPath, new: KeyPath) -> None:
        """Take out of a lower mapping what the upper one does not say."""
        below = self.document.get(old)
        for key in [*below] if isinstance(below, dict) and isinstance(self.document.get(new), dict) else ():
            if not self.document.has((*new, key)):
                self.document.move((*old, key), (*new, key))
        self.document.remove(old)

    def _report(self, path: KeyPath, place: SourceLocation, message: str) -> None:
        self.problems.append(Problem(message, ".".join(path), str(place)))

    def _place(self, path: KeyPath) -> SourceLocation:
        return self.document.places.get(path, SourceLocation(self.document.source))

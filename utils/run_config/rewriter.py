"""Moves and removes keys of a document, with a notice for each, or a problem if two keys conflict."""

from __future__ import annotations

from typing import Any

from utils.config.document import Document, KeyPath, SourceLocation
from utils.core.errors import Problem
from utils.run_config.older_table import LeftOut, Moved, Refused


class Rewriter:
    """Rewrites a document in place, collecting notices and problems."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.notices: list[str] = []
        self.problems: list[Problem] = []

    def apply(self, path: KeyPath, rule: Moved | LeftOut | Refused) -> None:
        """Apply a rule of the table to a key, if it is written."""
        if not self.document.has(path):
            return
        value = self.document.get(path)
        if isinstance(rule, Moved) and value in rule.nothing:
            self.document.remove(path)
        elif isinstance(rule, Moved):
            self.move(path, tuple(rule.to.split(".")), agreeing=True)
        elif isinstance(rule, LeftOut) and (not rule.values or value in rule.values):
            self.drop(path, f"has no effect; {rule.why}")
        else:
            share = f"{1 / value:.3g}" if isinstance(value, int) and value > 0 else "0.05"
            said = rule.otherwise if isinstance(rule, LeftOut) else rule.why
            self.refuse(path, said.replace("{share}", share))

    def move(self, old: KeyPath, new: KeyPath, *value: Any, agreeing: bool = False) -> None:
        """Move a key, if it is written, optionally with a new value; the upper layer's value takes precedence.

        With `agreeing`, two keys of one layer with the same value are accepted.
        """
        if not self.document.has(old):
            return
        if self.document.overrides(old, new) and self.document.has(new):
            self.document.remove(new)
        elif self.document.overrides(new, old):
            self._fill_gaps(old, new)
            return
        if agreeing and self.document.has(new) and self.document.get(new) == self.document.get(old):
            self.drop(old, f"the same as {'.'.join(new)}; left out")
            return
        place, written = self.place(old), self.document.get(new[:-1], {})
        if self.document.has(new) or not isinstance(written, (dict, type(None))):
            taken = new if self.document.has(new) else new[:-1]
            self.refuse(old, f"two names for one setting; {'.'.join(taken)} is written too: keep that one")
            return
        self.document.move(old, new)
        if value:
            self.document.set(new, value[0], place)
        self.notice(old, place, f"now called {'.'.join(new)}; read as that")

    def drop(self, path: KeyPath, reason: str) -> tuple[SourceLocation, Any]:
        """Remove a key with a notice, and return its location and value."""
        place, value = self.place(path), self.document.remove(path)
        self.notice(path, place, reason)
        return place, value

    def refuse(self, path: KeyPath, message: str) -> None:
        """Remove a key and report it as a mistake."""
        self.report(path, self.place(path), message)
        self.document.remove(path)

    def notice(self, path: KeyPath, place: SourceLocation, text: str) -> None:
        """Add a notice on a key."""
        self.notices.append(f"{place}  {'.'.join(path)}: {text}")

    def report(self, path: KeyPath, place: SourceLocation, message: str) -> None:
        """Report a problem with a key."""
        self.problems.append(Problem(message, ".".join(path), str(place)))

    def place(self, path: KeyPath) -> SourceLocation:
        """Return where a key was written."""
        return self.document.places.get(path, SourceLocation(self.document.source))

    def _fill_gaps(self, old: KeyPath, new: KeyPath) -> None:
        """Move those keys of a lower mapping that the upper one lacks, and remove the rest."""
        below = self.document.get(old)
        for key in [*below] if isinstance(below, dict) and isinstance(self.document.get(new), dict) else ():
            if not self.document.has((*new, key)):
                self.document.move((*old, key), (*new, key))
        self.document.remove(old)

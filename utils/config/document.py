"""A mapping of plain values that knows the file and line of each value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from utils.core.errors import Code, Problem

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class SourceLocation:
    """Where a value was written."""

    source: str
    """File as the user named it, or `command line`."""
    line: int | None = None
    """Line number from 1."""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass
class Document:
    """A mapping read from one or more sources, with the location of every key."""

    data: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, SourceLocation] = field(default_factory=dict)
    source: str = ""
    """File named by the user."""
    layers: list[str] = field(default_factory=list)
    """Sources merged over it, the last one on top."""

    def copy(self) -> Document:
        """Return a copy whose changes do not affect this document."""
        return replace(self, data=_copy_plain(self.data), places=dict(self.places), layers=list(self.layers))

    def place_of(self, path: KeyPath) -> str:
        """Return `file:line` of a key, or of the nearest enclosing key that was written."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return str(self.places[path[:end]])
        return self.source

    def problem(self, key: str, message: str, code: Code = "conflict") -> Problem:
        """Describe a mistake in the value of a dotted key."""
        return Problem(message, key, self.place_of(tuple(key.split("."))), code)

    def get(self, path: KeyPath, default: Any = None) -> Any:
        """Return the value at a path."""
        value: Any = self.data
        for key in path:
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    def has(self, path: KeyPath) -> bool:
        """Return whether a key was written, even as null."""
        parent: Any = self.data
        for key in path[:-1]:
            if not isinstance(parent, dict):
                return False
            parent = parent.get(key)
        return isinstance(parent, dict) and path[-1] in parent

    def set(self, path: KeyPath, value: Any, place: SourceLocation) -> None:
        """Set a value, creating the sections above it; a scalar in place of a section is replaced."""
        node = self.data
        for depth, key in enumerate(path[:-1], start=1):
            if not isinstance(node.get(key), dict):
                node[key] = {}
                self.places.setdefault(path[:depth], place)
            node = node[key]
        had_places_inside = isinstance(node.get(path[-1]), (dict, list))
        node[path[-1]] = value
        if had_places_inside:
            self._forget(path)
        self.places[path] = place

    def remove(self, path: KeyPath) -> Any:
        """Remove a key and return its value."""
        parent = self.get(path[:-1], self.data)
        value = parent.pop(path[-1])
        self._forget(path)
        return value

    def move(self, old: KeyPath, new: KeyPath) -> None:
        """Move a value, with the locations of everything in it."""
        inner = {path[len(old) :]: place for path, place in self.places.items() if path[: len(old)] == old}
        self.set(new, self.remove(old), inner.get((), SourceLocation(self.source)))
        self.places |= {(*new, *path): place for path, place in inner.items()}

    def merge(self, over: Document) -> None:
        """Merge another document over this one: mappings merge key by key, other values are replaced."""
        for path, value in over.leaves():
            self.set(path, value, over.places.get(path, SourceLocation(over.source)))
        self.layers.append(over.source)

    def overrides(self, upper: KeyPath, lower: KeyPath) -> bool:
        """Return whether a key was written in a layer above another key's."""
        upper_layer, lower_layer = (self._layer_of(path) for path in (upper, lower))
        return upper_layer > lower_layer

    def _layer_of(self, path: KeyPath) -> int:
        """Return the topmost layer that wrote a key or part of it; -1 for the document itself, or none."""
        sources = {place.source for known, place in self.places.items() if known[: len(path)] == path}
        return max((index for index, source in enumerate(self.layers) if source in sources), default=-1)

    def leaves(self, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
        """Yield every value with its path, descending into non-empty mappings."""
        for key, value in self.get(path, self.data).items() if path else self.data.items():
            if isinstance(value, dict) and value:
                yield from self.leaves((*path, key))
            else:
                yield (*path, key), value

    def _forget(self, path: KeyPath) -> None:
        for known in [known for known in self.places if known[: len(path)] == path]:
            del self.places[known]


def _copy_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy_plain(each) for key, each in value.items()}
    return [_copy_plain(each) for each in value] if isinstance(value, list) else value

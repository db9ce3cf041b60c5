"""Reads YAML safely into plain values and remembers the file and line of every one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from utils.config.scalars import CORE_KINDS, TAG, CoreLoader, FastCoreLoader, parse_scalar
from utils.core.errors import ConfigError, Problem
from utils.core.secrets import learn_text, learn_value

KeyPath = tuple[str, ...]

_MAX_NODES = 20_000  # far above any configuration, far below what nested aliases can blow up to
_MAX_DEPTH = 50
MAX_BYTES = 500_000
"""A configuration has some kilobytes; reading ten megabytes of YAML takes minutes."""
_FEW_BYTES = 10_000  # libyaml has no bound of its own: nested deep enough, a text ends the process
_TOO_MANY = f"more than {_MAX_NODES:,} values, counted with what aliases repeat; no configuration has so many"
_ENDLESS = "mappings, lists or aliases nest without end"


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
    """A mapping read from one or more sources, with the place of every key."""

    data: dict[str, Any] = field(default_factory=dict)
    places: dict[KeyPath, SourceLocation] = field(default_factory=dict)
    source: str = ""
    """The file that the user named."""
    layers: list[str] = field(default_factory=list)
    """Sources that were laid over it, the last one on top."""

    def copy(self) -> Document:
        """Copy what a change of the copy must not change here."""
        return replace(self, data=_copy_plain(self.data), places=dict(self.places), layers=list(self.layers))

    def place_of(self, path: KeyPath) -> str:
        """Give `file:line` of a key, or of the nearest enclosing one that was written."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return str(self.places[path[:end]])
        return self.source

    def get(self, path: KeyPath, default: Any = None) -> Any:
        """Look a value up by its path."""
        value: Any = self.data
        for key in path:
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    def has(self, path: KeyPath) -> bool:
        """Tell whether a key was written, even as null."""
        return isinstance(parent := self.get(path[:-1], {}), dict) and path[-1] in parent

    def set(self, path: KeyPath, value: Any, place: SourceLocation) -> None:
        """Write a value, making the sections on its way; a scalar standing in the way is replaced."""
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
        """Take a key out and return its value."""
        parent = self.get(path[:-1], self.data)
        value = parent.pop(path[-1])
        self._forget(path)
        return value

    def move(self, old: KeyPath, new: KeyPath) -> None:
        """Write a value elsewhere, with the places of everything in it."""
        inner = {path[len(old) :]: place for path, place in self.places.items() if path[: len(old)] == old}
        self.set(new, self.remove(old), inner.get((), SourceLocation(self.source)))
        self.places |= {(*new, *path): place for path, place in inner.items()}

    def merge(self, over: Document) -> None:
        """Lay another document over this one: mappings merge key by key, all else is replaced."""
        for path, value in over.leaves():
            self.set(path, value, over.places.get(path, SourceLocation(over.source)))
        self.layers.append(over.source)

    def overrides(self, upper: KeyPath, lower: KeyPath) -> bool:
        """Tell whether a key was written in a layer above another key's."""
        upper_layer, lower_layer = (self._layer_of(path) for path in (upper, lower))
        return upper_layer > lower_layer

    def _layer_of(self, path: KeyPath) -> int:
        """Give the topmost layer that wrote a key or something in it; -1: the document itself, or none."""
        sources = {place.source for known, place in self.places.items() if known[: len(path)] == path}
        return max((index for index, source in enumerate(self.layers) if source in sources), default=-1)

    def leaves(self, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
        """Yield every value that is not a non-empty mapping, with its path."""
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


def read_document(path: str | Path) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: The file is missing, unreadable, not UTF-8, empty, not YAML, not a mapping, or holds
            duplicate keys.
    """
    source = str(path)
    root = _compose(_read_text(Path(path), source), source)
    if root is None or root.tag == f"{TAG}null":
        raise ConfigError([Problem("the file is empty; see configs/template.yaml", place=source)])
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1
        problem = "the top level must be a mapping of sections (model:, peft:, dataset: ...)"
        raise ConfigError([Problem(f"{problem}, found {_kind(root)}", place=f"{source}:{line}")])
    reader = _Reader(source)
    data = reader.read(root)
    return Document(data, reader.places, source)


def parse_value(text: str) -> Any:
    """Read one value in YAML syntax, as overrides are written: `3e-4`, `null`, `[a, b]`, `{bits: 4}`.

    Raises:
        ConfigError: The text is not YAML, or holds duplicate keys.
    """
    root = _compose(text, "command line")
    return None if root is None else _Reader("command line").read(root)


def read_bounded(path: Path) -> bytes:
    """Read a file that is to be a configuration, of a pipe too.

    Raises:
        ConfigError: It is far too large to be one.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        found = file.read(MAX_BYTES + 1)
    if len(found) > MAX_BYTES:
        message = "more than 0.5 MB, which no configuration has; was a file of rows or weights named?"
        raise ConfigError([Problem(message, place=str(path))])
    return found


def _read_text(path: Path, source: str) -> str:
    found = b""
    try:
        found = read_bounded(path)
        return found.decode("utf-8-sig")
    except FileNotFoundError:
        hint = _similar_file(path)
        raise ConfigError([Problem(f"no such file{hint}", place=source)]) from None
    except IsADirectoryError:
        raise ConfigError([Problem("this is a folder; name a YAML file in it", place=source)]) from None
    except UnicodeDecodeError as error:
        line = found[: error.start].count(b"\n") + 1
        message = f"not UTF-8 text (byte 0x{found[error.start]:02x}); save the file as UTF-8"
        raise ConfigError([Problem(message, place=f"{source}:{line}")]) from None
    except OSError as error:
        raise ConfigError([Problem(f"cannot be read: {error.strerror}", place=source)]) from None


def _similar_file(path: Path) -> str:
    from difflib import get_close_matches

    folder = path.parent if path.parent.is_dir() else Path("configs")
    names = [file.name for file in folder.glob("*.y*ml")]
    near = get_close_matches(path.name, names, n=1)
    return f"; did you mean {folder / near[0]}?" if near else ""


def _compose(text: str, source: str) -> yaml.Node | None:
    """Parse to nodes with YAML 1.2's scalars, so that `off` is a word and `2e-5` a number."""
    learn_text(text)
    try:
        if len(text) < _FEW_BYTES:
            with suppress(yaml.YAMLError, UnicodeEncodeError):  # the slower one says what is wrong
                return yaml.compose(text, Loader=FastCoreLoader)
        return yaml.compose(text, Loader=CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = _explain(error, text)
        place = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError([Problem(message, place=place)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"not YAML: the character U+{error.character:04X} may not stand in a text file; take it out"
        raise ConfigError([Problem(message, place=f"{source}:{line}")]) from None
    except RecursionError:
        raise ConfigError([Problem(_ENDLESS, place=source)]) from None


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in str(error.problem):
        return "a tab is used for indentation; YAML needs spaces"
    return f"not YAML: {error.problem or error.context}; check indentation, colons and quotes here"


class _Reader:
    """Turns nodes into plain values, noting places, duplicate keys and runaway aliases."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[KeyPath, SourceLocation] = {}
        self.problems: list[Problem] = []
        self._count = 0
        self._open: set[int] = set()

    def read(self, root: yaml.Node) -> Any:
        """Convert a whole document; its mistakes are raised together."""
        value = self._value(root, ())
        if self.problems:
            raise ConfigError(self.problems)
        return value

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._count += 1
        if self._count > _MAX_NODES or len(self._open) > _MAX_DEPTH or id(node) in self._open:
            self._report(_TOO_MANY if self._count > _MAX_NODES else _ENDLESS, path, node)
            raise ConfigError(self.problems)
        if node.tag.removeprefix(TAG) not in (*CORE_KINDS, "map", "seq"):
            self._report(f"the tag {node.tag.replace(TAG, '!!')} is not allowed; write a plain value", path, node)
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            value: Any = self._mapping(node, path)
        else:
            value = [self._value(item, (*path, str(index))) for index, item in enumerate(node.value)]
        self._open.discard(id(node))
        return value

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        """Convert a mapping; `<<` brings in another one beneath its own keys."""
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{TAG}merge":
                data.update(self._merged(value_node, path))
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{TAG}merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._report("a key must be a plain word, not a list or mapping", path, key_node)
                continue
            key, line = key_node.value, key_node.start_mark.line + 1
            if key in lines:
                self._report(f"the key stands twice (first on line {lines[key]}); keep one", (*path, key), key_node)
            lines.setdefault(key, line)
            here = (*path, key)
            self.places[here] = SourceLocation(self.source, line)
            data[key] = self._value(value_node, here)
        return data

    def _merged(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for each in reversed(node.value if isinstance(node, yaml.SequenceNode) else [node]):
            if isinstance(each, yaml.MappingNode):
                merged.update(self._value(each, path))
            else:
                self._report("<< takes a mapping, such as *name of one marked &name", path, each)
        return merged

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        kind = node.tag.removeprefix(TAG)
        for key in path:
            learn_value(key, node.value)
        if re.search("[\0\ud800-\udfff]", node.value):
            self._report("holds a NUL or half a character, as no file and no name can; take it out", path, node)
            return None
        try:
            return parse_scalar(kind, node.value)
        except ValueError:
            self._report(f"{node.value[:40]!r} cannot be read as {kind}", path, node)
            return None

    def _report(self, message: str, path: KeyPath, node: yaml.Node) -> None:
        self.problems.append(Problem(message, ".".join(path), f"{self.source}:{node.start_mark.line + 1}"))


def _kind(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"

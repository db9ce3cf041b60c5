"""Reads YAML safely into plain values and remembers the file and line of every one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from utils.errors import ConfigError, Problem

KeyPath = tuple[str, ...]

_MAX_NODES = 100_000  # far above any configuration, far below what nested aliases can blow up to


@dataclass(frozen=True)
class Place:
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
    places: dict[KeyPath, Place] = field(default_factory=dict)
    source: str = ""
    """The file that the user named."""

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

    def set(self, path: KeyPath, value: Any, place: Place) -> None:
        """Write a value, making the sections on its way; a scalar standing in the way is replaced."""
        node = self.data
        for depth, key in enumerate(path[:-1], start=1):
            if not isinstance(node.get(key), dict):
                node[key] = {}
                self.places.setdefault(path[:depth], place)
            node = node[key]
        node[path[-1]] = value
        self._forget(path)
        self.places[path] = place

    def remove(self, path: KeyPath) -> Any:
        """Take a key out and return its value."""
        parent = self.get(path[:-1], self.data)
        value = parent.pop(path[-1])
        self._forget(path)
        return value

    def merge(self, over: Document) -> None:
        """Lay another document over this one: mappings merge key by key, all else is replaced."""
        for path, value in over.leaves():
            self.set(path, value, over.places.get(path, Place(over.source)))

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


def read_document(path: str | Path) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: The file is missing, unreadable, not UTF-8, empty, not YAML, not a mapping, or holds
            duplicate keys.
    """
    source = str(path)
    root = _compose(_read_text(Path(path), source), source)
    if root is None:
        raise ConfigError([Problem("the file is empty; see configs/template.yaml", place=source)])
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1
        problem = "the top level must be a mapping of sections (model:, peft:, dataset: ...)"
        raise ConfigError([Problem(f"{problem}, found {_kind(root)}", place=f"{source}:{line}")])
    reader = _Reader(source)
    data = reader.mapping(root, ())
    if reader.problems:
        raise ConfigError(reader.problems)
    return Document(data, reader.places, source)


def parse_value(text: str) -> Any:
    """Read one value in YAML syntax, as overrides are written: `3e-4`, `null`, `[a, b]`, `{bits: 4}`.

    Raises:
        ConfigError: The text is not YAML.
    """
    root = _compose(text, "command line")
    return None if root is None else _Reader("command line").value(root, ())


def _read_text(path: Path, source: str) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        hint = _similar_file(path)
        raise ConfigError([Problem(f"no such file{hint}", place=source)]) from None
    except IsADirectoryError:
        raise ConfigError([Problem("this is a folder; name a YAML file in it", place=source)]) from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        message = f"not UTF-8 text (byte 0x{path.read_bytes()[error.start]:02x}); save the file as UTF-8"
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
    try:
        return yaml.compose(text, Loader=_CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = _explain(error, text)
        place = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError([Problem(message, place=place)]) from None
    except yaml.YAMLError as error:
        raise ConfigError([Problem(f"not YAML: {str(error).splitlines()[0]}", place=source)]) from None


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in str(error.problem):
        return "a tab is used for indentation; YAML needs spaces"
    return f"not YAML: {error.problem or error.context}; check indentation, colons and quotes here"


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalar rules of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}


_CORE = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
)
for _tag, _pattern, _first in _CORE:
    _starts = ["" if char == "\0" else char for char in _first]
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _starts)


class _Reader:
    """Turns nodes into plain values, noting places, duplicate keys and runaway aliases."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[KeyPath, Place] = {}
        self.problems: list[Problem] = []
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        """Convert any node."""
        self._count += 1
        if self._count > _MAX_NODES or id(node) in self._open:
            line = node.start_mark.line + 1
            raise ConfigError([Problem("aliases nest without end", place=f"{self.source}:{line}")])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            return [self.value(item, (*path, str(index))) for index, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        """Convert a mapping; `<<` brings in another one beneath its own keys."""
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged.update(self._merged(value_node, path))
                continue
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in lines:
                message = f"the key stands twice (first on line {lines[key]}); keep one"
                self.problems.append(Problem(message, ".".join((*path, key)), f"{self.source}:{line}"))
            lines.setdefault(key, line)
            here = (*path, key)
            self.places[here] = Place(self.source, line)
            own[key] = self.value(value_node, (*path, key))
        return {**merged, **own}

    def _merged(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for each in reversed(nodes):
            if isinstance(each, yaml.MappingNode):
                merged.update(self.mapping(each, path))
        return merged

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        tag = node.tag.rsplit(":", 1)[-1]
        text = node.value.replace("_", "") if tag in ("int", "float") else node.value
        if tag == "int":
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if tag == "float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan")) if "n" in text.lower() else float(text)
        if tag in ("null", "bool"):
            return None if tag == "null" else node.value.lower() == "true"
        if not node.tag.startswith("tag:yaml.org,2002:"):
            message = f"the tag {node.tag} is not allowed; write a plain value"
            self.problems.append(Problem(message, ".".join(path), f"{self.source}:{node.start_mark.line + 1}"))
        return node.value


def _kind(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else "a single value"

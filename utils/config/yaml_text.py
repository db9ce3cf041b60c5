"""Safe YAML with the file and line of every value, from files and `key=value` arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from utils.config.document import Document, KeyPath, SourceLocation
from utils.config.yaml_scalars import CORE_KINDS, TAG, CoreDumper, CoreLoader, FastCoreLoader, parse_scalar
from utils.core.errors import ConfigError, Problem
from utils.core.project import ROOT
from utils.core.secrets import learn_text, learn_value

_MAX_NODES = 20_000  # far above any configuration, far below what nested aliases can expand to
_MAX_DEPTH = 50
MAX_BYTES = 500_000
"""A configuration has a few kilobytes; parsing ten megabytes of YAML takes minutes."""
_FEW_BYTES = 10_000  # too few to nest so deeply that libyaml, which has no depth limit, crashes the process
_TOO_MANY = f"more than {_MAX_NODES:,} values, counting what aliases repeat; no configuration has so many"
_ENDLESS = "mappings, lists or aliases nest without end"


def dump_yaml(data: dict[str, Any]) -> str:
    """Write plain values as YAML that any parser reads the same way."""
    return yaml.dump(data, Dumper=CoreDumper, sort_keys=False, allow_unicode=True, width=100)


def read_document(path: str | Path) -> Document:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: The file is missing, unreadable, not UTF-8, empty, not YAML, not a mapping, or has
            duplicate keys.
    """
    source = str(path)
    root = _compose(_read_text(Path(path), source), source)
    if root is None or root.tag == f"{TAG}null":
        raise ConfigError([_unreadable("the file is empty; see configs/template.yaml", source)])
    if not isinstance(root, yaml.MappingNode):
        line = root.start_mark.line + 1
        problem = "the top level must be a mapping of sections (model:, peft:, dataset: ...)"
        raise ConfigError([_unreadable(f"{problem}, found {_kind(root)}", f"{source}:{line}")])
    reader = _Reader(source)
    data = reader.read(root)
    return Document(data, reader.places, source)


def parse_value(text: str) -> Any:
    """Parse one value in YAML syntax, as overrides are written: `3e-4`, `null`, `[a, b]`, `{bits: 4}`.

    Raises:
        ConfigError: The text is not YAML, or has duplicate keys.
    """
    root = _compose(text, "command line")
    return None if root is None else _Reader("command line").read(root)


def read_bounded(path: Path) -> bytes:
    """Read a configuration file, which may be a pipe.

    Raises:
        ConfigError: The file is far too large to be a configuration.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        found = file.read(MAX_BYTES + 1)
    if len(found) > MAX_BYTES:
        message = "more than 0.5 MB, which no configuration has; was a file of rows or weights named?"
        raise ConfigError([_unreadable(message, str(path))])
    return found


def _read_text(path: Path, source: str) -> str:
    found = b""
    try:
        found = read_bounded(path)
        return found.decode("utf-8-sig")
    except FileNotFoundError:
        hint = _similar_file(path)
        raise ConfigError([_unreadable(f"no such file{hint}", source)]) from None
    except IsADirectoryError:
        raise ConfigError([_unreadable("this is a folder; name a YAML file in it", source)]) from None
    except UnicodeDecodeError as error:
        line = found[: error.start].count(b"\n") + 1
        message = f"not UTF-8 text (byte 0x{found[error.start]:02x}); save the file as UTF-8"
        raise ConfigError([_unreadable(message, f"{source}:{line}")]) from None
    except OSError as error:
        raise ConfigError([_unreadable(f"cannot be read: {error.strerror}", source)]) from None


def _unreadable(message: str, place: str) -> Problem:
    return Problem(message, place=place, code="unreadable")


def _similar_file(path: Path) -> str:
    from difflib import get_close_matches

    is_name = not path.suffix and len(path.parts) == 1  # such as quickstart
    folder = ROOT / "configs" if is_name else path.parent if path.parent.is_dir() else Path("configs")
    names = [file.stem if is_name else file.name for file in folder.glob("[!.]*.y*ml")]
    near = get_close_matches(path.name, names, n=1)
    hint = f"; did you mean {near[0] if is_name else folder / near[0]}?" if near else ""
    return hint or (f"; the shipped ones are {', '.join(sorted(names))}" if is_name else "")


def _compose(text: str, source: str) -> yaml.Node | None:
    """Parse into nodes with YAML 1.2's scalars, so that `off` is a string and `2e-5` a number."""
    learn_text(text)
    try:
        with suppress(yaml.YAMLError, UnicodeEncodeError):  # the slower parser explains the mistake
            if len(text) < _FEW_BYTES or not _nests_deeply(text):
                return yaml.compose(text, Loader=FastCoreLoader)
        return yaml.compose(text, Loader=CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = _explain(error, text)
        place = f"{source}:{mark.line + 1}" if mark else source
        raise ConfigError([_unreadable(message, place)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"not YAML: the character U+{error.character:04X} is not allowed in a text file; remove it"
        raise ConfigError([_unreadable(message, f"{source}:{line}")]) from None
    except RecursionError:
        raise ConfigError([_unreadable(_ENDLESS, source)]) from None


def _nests_deeply(text: str) -> bool:
    """Whether a text exceeds the depth limit; libyaml's own composing has none, but its events can be counted."""
    depth = 0
    for event in yaml.parse(text, Loader=FastCoreLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            return True
    return False


def _explain(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in str(error.problem):
        return "a tab is used for indentation; YAML needs spaces"
    return f"not YAML: {error.problem or error.context}; check indentation, colons and quotes here"


class _Reader:
    """Converts nodes to plain values, recording locations and rejecting duplicate keys and runaway aliases."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.places: dict[KeyPath, SourceLocation] = {}
        self.problems: list[Problem] = []
        self._count = 0
        self._open: set[int] = set()

    def read(self, root: yaml.Node) -> Any:
        """Convert a whole document, raising all of its mistakes together."""
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
        """Convert a mapping; keys merged in with `<<` rank below its own."""
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
                self._report(f"the key appears twice (first on line {lines[key]}); keep one", (*path, key), key_node)
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
                self._report("<< takes a mapping, such as *name for one marked &name", path, each)
        return merged

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        kind = node.tag.removeprefix(TAG)
        for key in path:
            learn_value(key, node.value)
        if re.search("[\0\ud800-\udfff]", node.value):
            self._report("holds a NUL or half a character, which no file or name can; remove it", path, node)
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


def read_overrides(overrides: Sequence[str]) -> Document:
    """Parse overrides into a document; later overrides of a key take precedence.

    Raises:
        ConfigError: A value is not YAML.
    """
    document = Document(source="command line")
    problems: list[Problem] = []
    for override in overrides:
        key, _, text = override.partition("=")
        try:
            document.set(tuple(key.split(".")), parse_value(text), SourceLocation("command line"))
        except ConfigError:
            problems.append(Problem(f"{text!r} is not a value in YAML syntax", key, "command line"))
    if problems:
        raise ConfigError(problems)
    return document

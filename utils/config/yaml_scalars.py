"""YAML 1.2's scalars for PyYAML, which implements 1.1: `off` is a string, and `2e-5` a number."""

from __future__ import annotations

import re
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"
CORE_KINDS = ("str", "int", "float", "bool", "null")
"""The allowed scalar types; other tags, such as !!python/object, are rejected."""


class CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalar rules of YAML 1.2's core schema, plus digit groups as in 1.1: 10_000."""

    yaml_implicit_resolvers: dict[str, Any] = {}


class FastCoreLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # a base chosen at run time
    """The same with libyaml, if PyYAML was built with it: ten times faster, with terser messages."""

    yaml_implicit_resolvers: dict[str, Any] = {}


class CoreDumper(yaml.SafeDumper):
    """SafeDumper that quotes every string which YAML 1.1 or 1.2 would read as another type, such as `1e5`."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write a list out in full each time it occurs."""
        return True


_CORE = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
)
for _name, _pattern, _first in _CORE:
    _starts = ["" if char == "\0" else char for char in _first]
    for _class in (CoreLoader, FastCoreLoader, CoreDumper):
        _class.add_implicit_resolver(f"{TAG}{_name}", re.compile(f"^(?:{_pattern})$"), _starts)

_WORDS: dict[str, dict[str, bool | None]] = {
    "bool": {"true": True, "false": False},
    "null": {"": None, "~": None, "null": None},
}


def parse_scalar(kind: str, text: str) -> Any:
    """Parse the text of an unquoted scalar as one of CORE_KINDS.

    Raises:
        ValueError: An explicit tag contradicts the text: `!!int many`.
    """
    if kind == "str":
        return text
    if kind in _WORDS:
        if text.lower() not in _WORDS[kind]:
            raise ValueError(text)
        return _WORDS[kind][text.lower()]
    digits = text.lower().replace("_", "")
    if kind == "int":
        return int(digits, 0) if digits[:2] in ("0o", "0x") else int(digits)
    return float(digits.replace(".", "") if "n" in digits else digits)

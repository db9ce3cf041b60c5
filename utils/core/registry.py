"""Finds plug-ins by name: the configuration value is the file name, the directory is the registry.

A module (or package) is a plug-in when its source defines the marker of its kind at top level, such as `class Config`
in `utils/adapters`. What takes a few lines only stands in a table: a module with `TABLE = {name: ...}`, whose
`load_plugin(name)` gives one. Nothing is imported to find that out.
"""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parents[1]
_TABLE = re.compile(r"^TABLE\b", re.MULTILINE)
_MARKERS = {
    "adapters": r"^class Config\b",
    "datasets": r"^class Config\b",
    "metrics": r"^METRIC\b",
    "tasks": r"^class Task\(",
    "generation.backends": r"^class Backend\b",
}


def normalize(value: str) -> str:
    """Spell a configuration value as a module name: `prefix-tuning` is `prefix_tuning`."""
    return value.strip().lower().replace("-", "_")


def names(package: str) -> tuple[str, ...]:
    """Name every plug-in of a package, sorted.

    Args:
        package: A package of the library: `adapters`, `datasets`, `metrics`, `tasks` or `generation.backends`.
    """
    return tuple(sorted(_find_homes(package)))


@cache
def _find_homes(package: str) -> dict[str, str]:
    """Find the module in which each plug-in stands, by the plug-in's name."""
    marker = re.compile(_MARKERS[package], re.MULTILINE)
    folder = LIBRARY.joinpath(*package.split("."))
    sources = [*folder.glob("*.py"), *folder.glob("*/__init__.py")]
    homes: dict[str, str] = {}
    for path in (path for path in sources if path.stem != "__init__" or path.parent != folder):
        name, text = path.parent.name if path.stem == "__init__" else path.stem, path.read_text("utf-8")
        if _TABLE.search(text):
            homes |= dict.fromkeys(_read_names(text), name)
        elif marker.search(text):
            homes[name] = name
    return homes


def _read_names(source: str) -> list[str]:
    """Read the names in a module's TABLE."""
    assigned = [node for node in ast.parse(source).body if isinstance(node, ast.AnnAssign)]
    tables = [node.value for node in assigned if isinstance(node.target, ast.Name) and node.target.id == "TABLE"]
    assert len(tables) == 1, "a table is written once, with its type"
    assert isinstance(tables[0], ast.Dict), "and out in full, so that its names can be read"
    return [ast.literal_eval(key) for key in tables[0].keys if key is not None]


def has(package: str, value: str) -> bool:
    """Tell whether a package has a plug-in of this name."""
    return normalize(value) in names(package)


def load(package: str, value: str) -> Any:
    """Import the plug-in that a configuration value names.

    Raises:
        KeyError: The package has no such plug-in.
    """
    name = normalize(value)
    home = _find_homes(package)[name]
    module = importlib.import_module(f"utils.{package}.{home}")
    return module if home == name else module.load_plugin(name)

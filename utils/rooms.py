"""Finds rooms by name: the configuration value is the file name, the directory is the registry.

A module (or package) of a floor is a room when its source defines the floor's marker at top level,
such as `class Config` in `utils/adapters`. What takes a few lines only stands in a table: a module with
`TABLE = {name: ...}`, whose `load_plugin(name)` gives one. Nothing is imported to find that out.
"""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parent
_TABLE = re.compile(r"^TABLE\b", re.MULTILINE)
_MARKERS = {
    "adapters": r"^class Config\b",
    "data": r"^class Config\b",
    "metrics": r"^METRIC\b",
    "generation.backends": r"^class Backend\b",
}


def room_name(value: str) -> str:
    """Spell a configuration value as a module name: `prefix-tuning` is `prefix_tuning`."""
    return value.strip().lower().replace("-", "_")


def list_rooms(floor: str) -> tuple[str, ...]:
    """Name every room of a floor, sorted.

    Args:
        floor: A package of the library: `adapters`, `data`, `metrics` or `generation.backends`.
    """
    return tuple(sorted(_find_homes(floor)))


@cache
def _find_homes(floor: str) -> dict[str, str]:
    """Find the module in which each room stands, by the room's name."""
    marker = re.compile(_MARKERS[floor], re.MULTILINE)
    folder = LIBRARY.joinpath(*floor.split("."))
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


def has_room(floor: str, value: str) -> bool:
    """Tell whether a floor has a room of this name."""
    return room_name(value) in list_rooms(floor)


def open_room(floor: str, value: str) -> Any:
    """Import the room that a configuration value names.

    Raises:
        KeyError: The floor has no such room.
    """
    name = room_name(value)
    home = _find_homes(floor)[name]
    module = importlib.import_module(f"utils.{floor}.{home}")
    return module if home == name else module.load_plugin(name)

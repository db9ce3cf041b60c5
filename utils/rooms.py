"""Finds rooms by name: the configuration value is the file name, the directory is the registry.

A module (or package) of a floor is a room when its source defines the floor's marker at top level,
such as `class Config` or `Config = ` in `utils/adapters`. Nothing is imported to find that out.
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path
from types import ModuleType

LIBRARY = Path(__file__).parent
_MARKERS = {"adapters": r"^(class Config\b|Config = )", "data": r"^class Config\b", "metrics": r"^METRIC\b"}


def room_name(value: str) -> str:
    """Spell a configuration value as a module name: `prefix-tuning` is `prefix_tuning`."""
    return value.strip().lower().replace("-", "_")


@cache
def list_rooms(floor: str) -> tuple[str, ...]:
    """Name every room of a floor, sorted.

    Args:
        floor: A folder of the library: `adapters`, `data` or `metrics`.
    """
    marker = re.compile(_MARKERS[floor], re.MULTILINE)
    sources = [*(LIBRARY / floor).glob("*.py"), *(LIBRARY / floor).glob("*/__init__.py")]
    rooms = (path for path in sources if path.stem != "__init__" or path.parent.name != floor)
    named = {path.parent.name if path.stem == "__init__" else path.stem: path for path in rooms}
    return tuple(sorted(name for name, path in named.items() if marker.search(path.read_text("utf-8"))))


def has_room(floor: str, value: str) -> bool:
    """Tell whether a floor has a room of this name."""
    return room_name(value) in list_rooms(floor)


def open_room(floor: str, value: str) -> ModuleType:
    """Import the room that a configuration value names.

    Raises:
        KeyError: The floor has no such room.
    """
    name = room_name(value)
    if name not in list_rooms(floor):
        raise KeyError(name)
    return importlib.import_module(f"utils.{floor}.{name}")

"""Write JSON files atomically and in strict JSON."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.core.json_files import load_object
from utils.core.replace_file import replace_text

logger = logging.getLogger(__name__)


def write_json(path: Path, data: Mapping[str, Any], *, indent: int = 2, sort_keys: bool = False) -> None:
    """Write a mapping as JSON; numbers that are not finite become null, with a warning that names them.

    Values may include numpy scalars and arrays, paths and dates. The file's folder is created.
    """
    broken: list[str] = []
    plain = _to_plain(data, "", broken)
    if broken:
        logger.warning("%s: not a finite number, written as null: %s", path.name, ", ".join(broken))
    text = json.dumps(plain, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    replace_text(path, text + "\n", errors="backslashreplace")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if there is no such file.

    Raises:
        UserError: The file is incomplete, or not an object.
    """
    if not path.exists() and not path.is_symlink():
        return None
    return load_object(path, "it was cut off or edited; delete it, or run again with --overwrite")


def _to_plain(value: Any, name: str, broken: list[str]) -> Any:
    """Convert a value to JSON types, collecting the dotted names of numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _to_plain(each, f"{name}.{key}".lstrip("."), broken) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        each_named = enumerate(sorted(value, key=str) if isinstance(value, set | frozenset) else value)
        return [_to_plain(each, f"{name}[{index}]", broken) for index, each in each_named]
    if hasattr(value, "tolist"):  # numpy or torch, without importing either
        return _to_plain(value.tolist(), name, broken)
    if isinstance(value, float) and not math.isfinite(value):
        broken.append(name)
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)

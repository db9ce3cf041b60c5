"""Names runs by what sets them apart; the names are folders, so they hold nothing that a shell trips over."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

_LONGEST_NAME = 150


def name_run(task: str, method: str, grid: dict[str, Any], seed: int, shorts: dict[str, str]) -> str:
    """Name a run `<task>-<method>-<grid>-s<seed>`.

    Args:
        task: The task's name.
        method: The method's name.
        grid: Values by dotted key.
        seed: The run's seed.
        shorts: What the grid's keys are called, from `shorten_keys`.
    """
    values = (f"{shorts[key]}={_write_value(value)}" for key, value in grid.items())
    name = "-".join([task, method, *values, f"s{seed}"])
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}-{_digest(name)}"


def shorten_keys(keys: Iterable[str]) -> dict[str, str]:
    """Call a grid key by its last word, where that is enough to tell it from the others."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}


def _write_value(value: Any) -> str:
    """Write a value so that it can stand in a folder's name; what is lost on the way is told apart by a hash."""
    text = value if isinstance(value, str) else json.dumps(value)
    plain = re.sub(r"[^\w.+-]+", "_", text).strip("_")
    return plain if plain == text and len(plain) <= 40 else f"{plain[:30]}_{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]

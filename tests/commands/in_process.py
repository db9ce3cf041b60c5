"""Runs one of the commands in this process, as a shell would call it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def command(name: str, *words: str | Path) -> dict[str, Any]:
    """Give what a command's `main` gives; words with = in them are overrides: `command("train", "--config", file)`."""
    script = importlib.import_module(name)
    arguments = script.build().parse_args([str(word) for word in words if "=" not in str(word)])
    arguments.overrides = [str(word) for word in words if "=" in str(word)]
    answer: dict[str, Any] = script.main(arguments)
    return answer

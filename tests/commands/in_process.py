"""Run one of the commands in this process, as a shell would call it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from utils.cli.parser import parse_words


def command(name: str, *words: str | Path) -> dict[str, Any]:
    """Return what a command's `main` returns; arguments with = are overrides: `command("train", "--config", file)`."""
    script = importlib.import_module(name)
    answer: dict[str, Any] = script.main(parse_words(script.build(), [str(word) for word in words]))
    return answer


def exit_code(name: str, *words: str | Path | int) -> int:
    """Run a command as its command line does, including its error messages, and return the exit code."""
    from utils.cli.command_line import run_cli

    script = importlib.import_module(name)
    return run_cli(script.main, script.build(), [str(word) for word in words])

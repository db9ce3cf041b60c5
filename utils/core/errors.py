"""The errors a user may see: each says what was found, where, and what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_REQUEUE = 75
EXIT_INTERRUPTED = 130


Code = Literal[
    "unreadable",  # not YAML
    "unknown_key",
    "unknown_name",  # of a method, dataset, metric ...
    "missing",
    "wrong_value",  # a type or value that is not allowed
    "not_found",  # a file or a folder
    "unsupported",  # by the method, the base or the machine
    "secret",
    "conflict",  # with another setting
]
"""The kinds of mistakes in a configuration."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a configuration: where it is and how to fix it."""

    message: str
    """What is wrong and what would be right, in one sentence."""
    path: str = ""
    """Dotted path of the key, such as `peft.lora_r`; empty if it concerns the whole file."""
    place: str = ""
    """`file:line`, or `command line`."""
    code: Code = "conflict"
    """Kind of mistake, for programs that read `--json`."""

    def __str__(self) -> str:
        where = f"{self.place}  " if self.place else ""
        what = f"{self.path}: " if self.path else ""
        return f"{where}{what}{self.message}"

    @property
    def position(self) -> tuple[bool, str, int]:
        """File and line as a sort key; problems without a line, such as those on the command line, sort last."""
        source, _, line = self.place.rpartition(":")
        return (False, source, int(line)) if line.isdigit() else (True, self.place, 0)


class LoraNsError(Exception):
    """Base class of errors that end a command with one sentence instead of a traceback."""

    exit_code = EXIT_FAILED


class UserError(LoraNsError):
    """Something the user can fix: a setting, a file, a missing login."""

    exit_code = EXIT_BAD_INPUT


class ConfigError(UserError):
    """All mistakes found in a configuration, reported together.

    Args:
        problems: The mistakes, to be sorted by file and line, or a single sentence without a location.
    """

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        found = [Problem(problems)] if isinstance(problems, str) else problems
        self.problems = sorted(found, key=lambda problem: problem.position)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(UserError):
    """The rows cannot be used: a missing column, a label out of range, an empty split."""


class ModelError(UserError):
    """The model or tokenizer is unavailable or unsuitable: unreachable hub, wrong architecture."""


class CheckError(LoraNsError):
    """A self-check failed: the saved model is not the trained one."""

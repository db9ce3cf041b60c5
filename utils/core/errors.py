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
    "unreadable",  # no YAML
    "unknown_key",
    "unknown_name",  # of a method, a dataset, a metric ...
    "missing",
    "wrong_value",  # of a type or a size that is not allowed
    "not_found",  # a file or a folder
    "unsupported",  # by the method, the base or the machine
    "secret",
    "conflict",  # with another setting
]
"""The kinds of mistakes in a configuration."""


@dataclass(frozen=True)
class Problem:
    """One mistake in a configuration: where it stands and how to mend it."""

    message: str
    """What is wrong and what would be right, in one sentence."""
    path: str = ""
    """Dotted path of the key, such as `peft.lora_r`; empty when the whole file is meant."""
    place: str = ""
    """`file:line`, or `command line`."""
    code: Code = "conflict"
    """What kind of mistake it is, for programs that read `--json`."""

    def __str__(self) -> str:
        where = f"{self.place}  " if self.place else ""
        what = f"{self.path}: " if self.path else ""
        return f"{where}{what}{self.message}"

    @property
    def position(self) -> tuple[bool, str, int]:
        """File and line, to sort by; what has no line, as on the command line, comes last."""
        source, _, line = self.place.rpartition(":")
        return (False, source, int(line)) if line.isdigit() else (True, self.place, 0)


class LoraNsError(Exception):
    """Base of everything that ends a command with one sentence instead of a traceback."""

    exit_code = EXIT_FAILED


class UserError(LoraNsError):
    """Something the user can mend: a setting, a file, a missing login."""

    exit_code = EXIT_BAD_INPUT


class ConfigError(UserError):
    """All mistakes found in a configuration, reported together.

    Args:
        problems: Every mistake found, put in order of file and line; a bare sentence is one without a place.
    """

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        found = [Problem(problems)] if isinstance(problems, str) else problems
        self.problems = sorted(found, key=lambda problem: problem.position)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DataError(UserError):
    """The rows cannot be used as they are: a missing column, a label out of range, an empty split."""


class ModelError(UserError):
    """The model or tokenizer cannot be had or does not fit: unreachable hub, wrong architecture."""


class CheckError(LoraNsError):
    """A proof of ours failed: the saved model is not the trained one."""

"""What the command line says of a suite: which runs there are, which are wanted, and what is set in all of them."""

from __future__ import annotations

from dataclasses import dataclass

from utils.config.document import Document, SourceLocation
from utils.config.yaml_text import read_overrides
from utils.core.errors import ConfigError, Problem

COMMAND_LINE = "command line"
_NOT_HERE = {
    "seed": "every run has its own; use --seeds 1,2,3",
    "task_name": "the suite names its runs; leave it out",
    "training.output_dir": "every run has its own folder below the suite's; use --output_dir",
    "training.logging_dir": "every run logs into its own folder; leave it out",
    "extends": "only a run's file can extend another",
}


@dataclass(frozen=True)
class Choices:
    """What the command line says of which runs there are and which of them are wanted."""

    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    """Patterns of runs' names, as in a shell."""
    seeds: tuple[int, ...] = ()
    epochs: float | None = None
    model: str | None = None
    output_dir: str | None = None
    overrides: tuple[str, ...] = ()
    """`key=value` words, which win over everything."""
    shard: tuple[int, int] | None = None
    """Which part of how many, from 1."""


def read_command_line(choices: Choices) -> Document:
    """Read the overrides into a document; --epochs and --model are short for two of them.

    Raises:
        ConfigError: A value is not YAML, or a key is one that the suite sets for each run.
    """
    document = Document(source=COMMAND_LINE)
    short = {"training.num_train_epochs": choices.epochs, "model.name_or_path": choices.model}
    for key, value in short.items():
        if value is not None:
            document.set(tuple(key.split(".")), value, SourceLocation(COMMAND_LINE))
    written = read_overrides(choices.overrides)
    problems = [
        Problem(remedy, key, COMMAND_LINE) for key, remedy in _NOT_HERE.items() if written.has(tuple(key.split(".")))
    ]
    if problems:
        raise ConfigError(problems)
    document.merge(written)
    return document

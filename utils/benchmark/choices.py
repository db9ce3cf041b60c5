"""The runs of a suite that the command line selects, and the keys that it overrides."""

from __future__ import annotations

from dataclasses import dataclass

from utils.config.document import Document, SourceLocation
from utils.config.yaml_text import read_overrides
from utils.core.errors import ConfigError, Problem
from utils.run_config.older_table import current_name

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
    """The runs selected or changed by the command line."""

    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    """Patterns of run names, as in a shell."""
    seeds: tuple[int, ...] = ()
    epochs: float | None = None
    model: str | None = None
    output_dir: str | None = None
    overrides: tuple[str, ...] = ()
    """`key=value` arguments, which override everything."""
    shard: tuple[int, int] | None = None
    """Index, from 1, and number of parts."""
    launch: str | None = None
    """Command that starts the processes of each run, instead of the suite's."""


ALL = Choices()


def read_command_line(choices: Choices) -> Document:
    """Read the overrides into a document; --epochs and --model stand for two of them.

    Raises:
        ConfigError: An override sets a key that the suite sets for each run.
    """
    document = Document(source=COMMAND_LINE)
    short = {"training.num_train_epochs": choices.epochs, "model.name_or_path": choices.model}
    for key, value in short.items():
        if value is not None:
            document.set(tuple(key.split(".")), value, SourceLocation(COMMAND_LINE))
    written = read_overrides(choices.overrides)
    keys = [".".join(path[:end]) for path, _ in written.leaves() for end in range(1, len(path) + 1)]
    asked = {key: current_name(key) for key in keys}  # older names set the same keys
    problems = [Problem(_NOT_HERE[key], name, COMMAND_LINE) for name, key in asked.items() if key in _NOT_HERE]
    if problems:
        raise ConfigError(problems)
    document.merge(written)
    return document

"""What stands in a suite's file: tasks, methods, a grid and seeds over one base configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from utils.config.document import Document, SourceLocation
from utils.config.section import Section


class ResultsOfSuite(Section):
    """The `results:` section of a suite."""

    language: Literal["en", "zh"] = "en"
    """Language of the columns."""
    name: str | None = Field(None, min_length=1, pattern=r"^[^/\\]+$")
    """File name of the workbook, without .xlsx; {timestamp} is the time; null: results."""


class SuiteSection(Section):
    """The keys at the top of a suite's file."""

    suite: str = Field(min_length=1)
    """Names the suite; this key is what makes a file one."""
    extensions: list[str] | None = None
    """Folders of plug-ins of your own, as at the top of a run's file; the paths start at the suite's folder."""
    base: str | None = None
    """A run's file that all runs start from; the path starts at the suite's folder."""
    run: dict[str, Any] | None = None
    """Keys of a run's file, laid over the base."""
    output_dir: str | None = Field(None, min_length=1)
    """Folder of the suite; null: ./outputs/benchmarks/<file name>."""
    tasks: dict[str, Any]
    """Rows of the table: by name, the settings of each; `methods:` in it holds settings of single methods."""
    methods: dict[str, Any] | None = None
    """By name, the settings of each method; `search:` in it holds lists of values of which the best is chosen for each
    task, on seeds that are not reported; null: the base's own."""
    grid: dict[str, Any] | None = None
    """Dotted keys with lists of values; every combination is a run."""
    seeds: list[int] | None = None
    """One run for each; null: the base's seed."""
    search_seeds: list[int] | None = Field(None, min_length=1)
    """Seeds of the runs by which `search:` of a method chooses, none of them one of `seeds`; null: the one above."""
    include: list[dict[str, Any]] | None = None
    """Only what one of these selects is run; keys: task, method, seed, or a key of the grid; a value or a list."""
    exclude: list[dict[str, Any]] | None = None
    """What one of these selects is not run."""
    references: list[str] | None = Field(None, min_length=1)
    """Methods that every other one is compared with, seed by seed; null: the first one."""
    baselines: list[Literal["majority"]] = []
    """Rows of the table that need no run of their own."""
    timeout_minutes: float | None = Field(None, gt=0)
    """A run that takes longer is stopped; null: never."""
    results: ResultsOfSuite = ResultsOfSuite()
    """Language of the columns and name of the workbook."""
    launch: str | None = Field(None, min_length=1)
    """Command that starts the processes of each run, such as `torchrun --nproc_per_node 2`; null: one process."""
    launcher: dict[str, Any] = {"name": "local"}
    """Where the runs are worked on: `name` is local, slurm or pbs, the other keys are the launcher's own."""

    @property
    def timeout_s(self) -> float | None:
        """The limit in seconds."""
        return None if self.timeout_minutes is None else self.timeout_minutes * 60


@dataclass(frozen=True)
class Selector:
    """One entry of include or exclude."""

    wanted: dict[str, tuple[Any, ...]]
    """By task, method, seed or dotted grid key, the values that fit."""
    place: str

    def fits(self, values: dict[str, Any]) -> bool:
        """Tell whether a run's task, method, seed and grid values are all among the wanted ones."""
        return all(key in values and values[key] in allowed for key, allowed in self.wanted.items())


@dataclass(frozen=True)
class Suite:
    """A suite, read and free of mistakes of its own; its runs are checked when they are planned."""

    source: str
    section: SuiteSection
    base: Document
    """The base with `run:` laid over it."""
    tasks: dict[str, Document]
    task_methods: dict[tuple[str, str], Document]
    """What a task sets for one method."""
    methods: dict[str, Document]
    """Empty: the base's own method."""
    grid: dict[str, list[Any]]
    """Values by dotted key."""
    search: dict[str, dict[str, list[Any]]]
    """By method, values by dotted key."""
    places: dict[str, SourceLocation]
    """Of the grid's keys and of `seeds`."""
    include: list[Selector]
    exclude: list[Selector]
    launcher: Section
    """The section of the launcher that the suite names, or the command line."""

    @property
    def output_dir(self) -> Path:
        """The suite's folder."""
        return Path(self.section.output_dir or f"./outputs/benchmarks/{Path(self.source).stem}").expanduser()

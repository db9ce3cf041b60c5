"""The content of a suite's file: tasks, methods, a grid and seeds on one base configuration."""

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
    """The top-level keys of a suite's file."""

    suite: str = Field(min_length=1)
    """Name of the suite; this key makes the file a suite."""
    extensions: list[str] | None = None
    """Folders with your own plug-ins, as at the top of a run's file; paths are relative to the suite's folder."""
    base: str | None = None
    """A run's file that all runs start from; the path is relative to the suite's folder."""
    run: dict[str, Any] | None = None
    """Keys of a run's file that override the base."""
    output_dir: str | None = Field(None, min_length=1)
    """Folder of the suite; null: ./outputs/benchmarks/<file name>."""
    tasks: dict[str, Any]
    """Rows of the table: the settings of each task by name; its `methods:` has settings of single methods."""
    methods: dict[str, Any] | None = None
    """Settings of each method by name; its `search:` has lists of values, of which the best is chosen for each task on
    seeds that are not reported; null: the base's own method."""
    grid: dict[str, Any] | None = None
    """Dotted keys with lists of values; every combination is a run."""
    seeds: list[int] | None = None
    """One run per seed; null: the base's seed."""
    search_seeds: list[int] | None = Field(None, min_length=1)
    """Seeds of the runs by which a method's `search:` chooses, none of them in `seeds`; null: the largest seed + 1."""
    include: list[dict[str, Any]] | None = None
    """Run only what one of these selects; keys: task, method, seed, or a key of the grid; a value or a list."""
    exclude: list[dict[str, Any]] | None = None
    """Do not run what one of these selects."""
    references: list[str] | None = Field(None, min_length=1)
    """Methods that all others are compared with, seed by seed; null: the first one."""
    baselines: list[Literal["majority"]] = []
    """Rows of the table that need no run of their own."""
    timeout_minutes: float | None = Field(None, gt=0)
    """Stop runs that take longer; null: never."""
    results: ResultsOfSuite = ResultsOfSuite()
    """Language of the columns and name of the workbook."""
    launch: str | None = Field(None, min_length=1)
    """Command that starts the processes of each run, such as `torchrun --nproc_per_node 2`; null: one process."""
    launcher: dict[str, Any] = {"name": "local"}
    """Where the runs are executed: `name` is local, slurm or pbs, the other keys are the launcher's own."""

    @property
    def timeout_s(self) -> float | None:
        """The limit in seconds."""
        return None if self.timeout_minutes is None else self.timeout_minutes * 60


@dataclass(frozen=True)
class Selector:
    """One entry of include or exclude."""

    wanted: dict[str, tuple[Any, ...]]
    """Matching values by task, method, seed or dotted grid key."""
    place: str

    def fits(self, values: dict[str, Any]) -> bool:
        """Return whether a run's task, method, seed and grid values all match."""
        return all(key in values and values[key] in allowed for key, allowed in self.wanted.items())


@dataclass(frozen=True)
class Suite:
    """A suite whose own file has no mistakes; its runs are checked when they are planned."""

    source: str
    section: SuiteSection
    base: Document
    """The base with `run:` merged over it."""
    tasks: dict[str, Document]
    task_methods: dict[tuple[str, str], Document]
    """A task's settings of one method."""
    methods: dict[str, Document]
    """Empty: the base's own method."""
    grid: dict[str, list[Any]]
    """Values by dotted key."""
    search: dict[str, dict[str, list[Any]]]
    """Values by dotted key, for each method."""
    places: dict[str, SourceLocation]
    """Locations of the grid's keys and of `seeds`."""
    include: list[Selector]
    exclude: list[Selector]
    launcher: Section
    """Section of the launcher that the suite, or the command line, names."""

    @property
    def output_dir(self) -> Path:
        """The suite's folder."""
        return Path(self.section.output_dir or f"./outputs/benchmarks/{Path(self.source).stem}").expanduser()

"""The plan of a suite: every run with its name, folder and checked configuration, before anything is started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias

from utils.benchmark.choices import ALL, COMMAND_LINE, Choices, read_command_line
from utils.benchmark.combining import Combination, combine, name_run, shorten_keys
from utils.benchmark.suite import Suite
from utils.config.document import Document, SourceLocation
from utils.config.error_messages import suggest
from utils.config.run_config import RunConfig
from utils.core.errors import ConfigError, Problem, UserError
from utils.run_config.layers import merge_layer
from utils.run_config.load import check_machine, inspect_document
from utils.tasks.task import load_task

SearchKey: TypeAlias = tuple[str, str, str]
"""A search: task, method, grid values as text."""


def _name_search(each: PlannedRun | Combination) -> SearchKey:
    return each.task, each.method, ", ".join(f"{key}={value}" for key, value in each.grid.items())


@dataclass(frozen=True)
class PlannedRun:
    """One run of a suite."""

    name: str
    """`<task>-<method>-<grid>-s<seed>`, unique in the suite; name of its folder and log."""
    task: str
    method: str
    seed: int
    grid: dict[str, Any]
    """Grid values by dotted key, without keys that the method lacks."""
    folder: Path
    """The run folder."""
    log: Path
    config: dict[str, Any]
    """The resolved configuration, nested."""
    fingerprint: str
    metric: str | None
    """The task's own metric, if known before the run."""
    launch: str | None = None
    """Command that starts its processes; None for a single process."""
    is_search: bool = False
    """Whether the run belongs to a search, and is not reported."""
    searched: dict[str, Any] | None = None
    """Values by dotted key that it tries, or that a search has chosen; None: its method has no search."""

    @property
    def search_key(self) -> SearchKey:
        """Key of the run's search."""
        return _name_search(self)

    @property
    def config_file(self) -> Path:
        """The run's file for train.py."""
        return self.folder.parent / f"{self.folder.name}.yaml"


@dataclass
class Plan:
    """All runs of a suite, and those selected now."""

    suite: Suite
    output: Path
    runs: list[PlannedRun] = field(default_factory=list)
    """All runs of the suite, in the order task, method, grid, seed."""
    wanted: list[PlannedRun] = field(default_factory=list)
    """Runs selected by the command line."""
    shard: list[PlannedRun] = field(default_factory=list)
    """Selected runs of this shard; all of them without one."""
    pending: dict[SearchKey, int] = field(default_factory=dict)
    """Numbers of runs that wait for a search to choose their values."""
    num_combinations: int = 0
    """Number of inspected runs, including those with mistakes."""
    notices: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)
    """What this machine lacks for some of the runs."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def methods(self) -> list[str]:
        """Names of the methods in order."""
        return list(dict.fromkeys(run.method for run in self.runs))


def require_runs(plan: Plan) -> None:
    """Raise an error for a plan with mistakes, or without a run."""
    if plan.problems:
        raise ConfigError(plan.problems)
    if not plan.wanted:
        raise UserError("no run is left of the suite; widen --task, --method, --only, or include and exclude")


def inspect_plan(
    suite: Suite,
    choices: Choices = ALL,
    files: bool = True,
    chosen: Mapping[SearchKey, dict[str, Any]] | None = None,
) -> Plan:
    """Plan every run of a suite and check its configuration, without starting anything or heavy imports.

    Mistakes are collected in the plan. With `files`, files and folders named by the runs must exist. `chosen` has the
    values that searches have chosen; the runs of other searches are pending.
    """
    plan = Plan(suite, Path(choices.output_dir or suite.output_dir).expanduser())
    combined = combine(suite, choices.seeds)
    plan.notices += combined.notices
    plan.warnings += [*combined.warnings, *_find_idle_references(suite, combined.combinations)]
    plan.num_combinations = len(combined.combinations)
    combinations = list(_fill_in(plan, combined.combinations, chosen or {}))
    _inspect_runs(plan, choices, files, combinations)
    plan.wanted = _select(plan, choices, combined.combinations)
    if plan.pending:
        notice = "runs wait for a search; the same command plans them when its runs have ended"
        plan.notices.append(f"{sum(plan.pending.values())} {notice}")
    # Every n-th run, so that each part gets some of every task, as their durations differ.
    plan.shard = plan.wanted[choices.shard[0] - 1 :: choices.shard[1]] if choices.shard else plan.wanted
    return plan


def _fill_in(
    plan: Plan, combinations: Sequence[Combination], chosen: Mapping[SearchKey, dict[str, Any]]
) -> Iterator[Combination]:
    """Fill in the values that searches have chosen, and count the runs waiting for one."""
    for each in combinations:
        key = _name_search(each)
        if each.searched is None or each.is_search:
            yield each
        elif key in chosen:
            yield replace(each, searched=chosen[key])
        else:
            plan.pending[key] = plan.pending.get(key, 0) + 1


def _find_idle_references(suite: Suite, combinations: Sequence[Combination]) -> list[str]:
    """List reference methods that include and exclude leave without a run."""
    left = {each.method for each in combinations}
    gone = [name for name in suite.section.references or () if name in suite.methods and name not in left]
    return [f"references: {name} has no run in this suite, so nothing is compared with it" for name in gone]


def _inspect_runs(plan: Plan, choices: Choices, files: bool, combinations: Sequence[Combination]) -> None:
    """Build and check every run's configuration; each distinct mistake is kept once, with its runs."""
    command, shorts = read_command_line(choices), shorten_keys(plan.suite.grid)
    namesakes: dict[str, Combination] = {}
    problems: dict[Problem, list[str]] = {}
    for each in combinations:
        values = each.grid | ({"search": "", **(each.searched or {})} if each.is_search else {})
        name = name_run(each.task, each.method, values, each.seed, shorts | shorten_keys([*values]))
        inspection = inspect_document(_put_together(plan, choices, command, each, name), files=files)
        for problem in [
            *inspection.problems,
            *_refuse_namesake(plan.suite, name, namesakes.setdefault(name, each), each),
        ]:
            problems.setdefault(problem, []).append(name)
        if (config := inspection.config) is not None:
            plan.warnings += config.warnings
            plan.notices += config.notices
            plan.unmet += check_machine(config).warnings
            launch = choices.launch or plan.suite.section.launch
            plan.runs.append(_plan_run(each, name, plan.output, config, launch))
    plan.problems += [_name_runs(problem, names, len(combinations)) for problem, names in problems.items()]
    plan.warnings += _find_twins(plan.runs)
    for sentences in (plan.warnings, plan.notices, plan.unmet):
        sentences[:] = dict.fromkeys(sentences)


def _put_together(plan: Plan, choices: Choices, command: Document, each: Combination, name: str) -> Document:
    """Merge grid, seed and command line over the combination; name and folder are set by the suite."""
    suite, document = plan.suite, each.document.copy()
    over = Document(source=suite.source)
    for key, value in (each.grid | (each.searched or {})).items():
        over.set(tuple(key.split(".")), value, suite.places.get(key) or suite.places[f"{each.method} {key}"])
    if choices.seeds or suite.section.seeds or each.is_search:
        over.set(("seed",), each.seed, SourceLocation(COMMAND_LINE) if choices.seeds else suite.places["seeds"])
    merge_layer(document, over)
    merge_layer(document, command)
    own = SourceLocation(suite.source)
    document.set(("training", "output_dir"), str(plan.output / "runs" / name), own)
    document.set(("task_name",), each.task, own)
    return document


def _refuse_namesake(suite: Suite, name: str, first: Combination, each: Combination) -> Iterator[Problem]:
    if first is not each:
        mine, theirs = (f"task {one.task}, method {one.method}" for one in (each, first))
        message = f"two runs would have the name {name} ({mine}; {theirs}); rename a task or a method"
        yield Problem(message, "tasks", suite.source)


def _plan_run(each: Combination, name: str, output: Path, config: RunConfig, launch: str | None) -> PlannedRun:
    resolved = config.to_dict()
    return PlannedRun(
        name=name,
        task=each.task,
        method=each.method,
        seed=config.seed,
        grid=each.grid,
        folder=output / "runs" / name,
        log=output / "logs" / f"{name}.log",
        config=resolved,
        fingerprint=config.fingerprint(resolved),
        metric=load_task(config.task).headline(config),
        launch=launch,
        is_search=each.is_search,
        searched=each.searched,
    )


def _name_runs(problem: Problem, names: list[str], total: int) -> Problem:
    """Add the names of the runs with a mistake, unless all have it."""
    if len(names) == total or problem.place == COMMAND_LINE:
        return problem
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return Problem(f"{problem.message} (in {names[0]}{more})", problem.path, problem.place)


def _find_twins(runs: Sequence[PlannedRun]) -> Iterator[str]:
    """Yield warnings about runs with equal configurations, which would measure nothing new."""
    first: dict[str, PlannedRun] = {}
    twins = [(first[run.fingerprint], run) for run in runs if first.setdefault(run.fingerprint, run) is not run]
    if twins:
        (one, other), more = twins[0], f"; so are {len(twins) - 1} more" if len(twins) > 1 else ""
        yield f"{one.name} and {other.name} are the same configuration and measure the same{more}; exclude one of them"


def _select(plan: Plan, choices: Choices, combinations: Sequence[Combination]) -> list[PlannedRun]:
    """Select the runs that the command line asks for."""
    tasks = list(dict.fromkeys(each.task for each in combinations))
    methods = list(dict.fromkeys(each.method for each in combinations))
    for option, asked, there in (("task", choices.tasks, tasks), ("method", choices.methods, methods)):
        for name in (name for name in asked if name not in there):
            raise UserError(f"--{option} {name}: the suite has no such {option}{suggest(name, there)}")
    for pattern in choices.only:
        if plan.runs and not any(fnmatchcase(run.name, pattern) for run in plan.runs):
            raise UserError(f"--only {pattern}: no run has such a name; --dry-run lists them")
    return [
        run
        for run in plan.runs
        if (not choices.tasks or run.task in choices.tasks)
        and (not choices.methods or run.method in choices.methods)
        and (not choices.only or any(fnmatchcase(run.name, pattern) for pattern in choices.only))
    ]

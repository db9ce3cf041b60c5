"""Runs over their seeds: one row per task, method and grid values, and averages over the tasks of a method."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from utils.benchmark.baselines import collect_baselines
from utils.benchmark.outcomes import RunOutcome, SuiteFacts
from utils.benchmark.run_metrics import MISMATCHED, RunMetrics, has_mismatched, read_run_metrics
from utils.metrics.metric import load_metric
from utils.results.labels import is_score

SettingKey: TypeAlias = tuple[str, str, bool]

NO_SEED = -1
"""Stands for the seed of a baseline."""

_CONFIDENCE = 0.95
_BASELINE_FIGURES = ("accuracy", "f1", "matthews_correlation", "pearson", "spearmanr")


@dataclass(frozen=True)
class Stat:
    """One figure over seeds."""

    mean: float
    deviation: float | None
    """Sample standard deviation (divided by n - 1); None for a single value."""
    n: int

    def interval(self) -> tuple[float, float] | None:
        """Give Student's 95 % interval of the mean, which takes the values for normal; None for a single value."""
        if self.deviation is None:
            return None
        half = student_quantile(self.n - 1) * self.deviation / math.sqrt(self.n)
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class Setting:
    """What a row is a row of, besides its task: a method with its grid values."""

    method: str
    grid: Mapping[str, Any] = field(default_factory=dict)
    """Values by dotted key."""
    is_baseline: bool = False

    @property
    def key(self) -> SettingKey:
        """Something to look it up by: grid values may be lists."""
        return self.method, repr(sorted(self.grid.items())), self.is_baseline


@dataclass(frozen=True)
class SummaryRow:
    """One task with one method and one set of grid values, over its seeds."""

    task: str
    """As it is shown: MNLI's second row ends in -mm."""
    setting: Setting
    outcomes: tuple[RunOutcome, ...]
    """Of every planned seed; empty for a baseline."""
    figures: Mapping[int, RunMetrics]
    """By seed; a run without a result has empty ones. A baseline has no seed."""
    suffix: str = ""
    note: str = ""
    """Why a baseline has no values."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The task's own metric; more than one where the runs disagree, none where no run tells."""
        measured = [each.metric for each in self.figures.values() if "best" in each.values]
        named = measured or [each.metric for each in self.figures.values()]
        return tuple(dict.fromkeys(name for name in named if name))

    @property
    def metric(self) -> str | None:
        """The task's own metric, where there is just one."""
        return self.metrics[0] if len(self.metrics) == 1 else None

    @property
    def num_measured(self) -> int:
        """Seeds with a value of the task's own metric."""
        return len(self.find_values("best"))

    def find_values(self, name: str) -> dict[int, float]:
        """Give a figure by seed; a seed without it has no entry. The own metric has none where runs disagree on it."""
        if name in ("best", "last", "interval_low", "interval_high") and len(self.metrics) > 1:
            return {}
        return {seed: each.values[name] for seed, each in self.figures.items() if name in each.values}

    def measure(self, name: str) -> Stat | None:
        """Give mean, sample standard deviation and n of a figure over the seeds that have it; None where none has.

        A best accuracy is not averaged over runs that have one and runs for which Pearson stands in its place, nor
        memory over GPUs and processes.
        """
        values = list(self.find_values(name).values())
        return None if len(self.find_kinds(name)) > 1 else compute_stat(values)

    def find_kinds(self, name: str) -> set[str]:
        """Name what an accuracy or a memory figure is: accuracy or pearson, vram or ram."""
        kind = {"accuracy": "accuracy_is", "memory": "memory_is"}.get(name)
        return {getattr(each, kind) for each in self.figures.values() if name in each.values} if kind else set()


@dataclass(frozen=True)
class Average:
    """One setting over all tasks, each task counted once: MNLI by its matched set."""

    setting: Setting
    rows: tuple[SummaryRow, ...]
    tasks: tuple[str, ...]
    """All tasks of the suite; one without a result leaves the setting without an average."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Tasks on which the setting has no value of the task's own metric."""
        measured = {row.task for row in self.rows if row.num_measured}
        return tuple(task for task in self.tasks if task not in measured)

    @property
    def num_runs(self) -> tuple[int, int]:
        """Runs that stand behind the average, and runs that were planned."""
        return sum(row.num_measured for row in self.rows), sum(len(row.figures) for row in self.rows)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The tasks' metrics, which the average of the own metric mixes."""
        return tuple(dict.fromkeys(row.metric for row in self.rows if row.metric))

    def mean(self, name: str) -> float | None:
        """Average a figure over the tasks' means; None where a task lacks it or where the kinds do not mix.

        Own metrics mix as long as all are scores of which more is better, as in GLUE's own average; accuracy mixes
        with the Pearson's correlation that stands in its place; memory of GPUs and processes does not mix.
        """
        if self.missing or (name == "memory" and len({kind for row in self.rows for kind in row.find_kinds(name)}) > 1):
            return None
        if name in ("best", "last") and not all(row.metric and _is_mixable(row.metric) for row in self.rows):
            return None
        found = [row.measure(name) for row in self.rows]
        means = [each.mean for each in found if each is not None]
        return math.fsum(means) / len(means) if means and len(means) == len(found) else None

    def measure_over_seeds(self) -> Stat | None:
        """Average the own metric over tasks within each seed, then measure it over seeds.

        None where the tasks' seeds are not the same ones: then only `mean` holds.
        """
        if self.mean("best") is None:
            return None
        by_task = [row.find_values("best") for row in self.rows]
        if any(values.keys() != by_task[0].keys() for values in by_task):
            return None
        return compute_stat([math.fsum(values[seed] for values in by_task) / len(by_task) for seed in by_task[0]])


@dataclass(frozen=True)
class Summary:
    """All rows of a suite's table."""

    rows: tuple[SummaryRow, ...]
    averages: tuple[Average, ...]
    """One per setting; none where the suite has a single task."""
    grid_keys: tuple[str, ...]
    """All keys of the grid, in order."""
    reference_methods: tuple[str, ...] = ()
    """Methods that every other one is compared with; (): that of the first setting."""

    @property
    def settings(self) -> list[Setting]:
        """The settings, in order, baselines last."""
        return list({row.setting.key: row.setting for row in self.rows}.values())

    @property
    def references(self) -> list[Setting]:
        """The settings that every other one is compared with: the first of each method of reference."""
        own = [setting for setting in self.settings if not setting.is_baseline]
        wanted = self.reference_methods or tuple(setting.method for setting in own[:1])
        found = (next((each for each in own if each.method == method), None) for method in wanted)
        return [setting for setting in found if setting is not None]

    @property
    def tasks(self) -> list[str]:
        """The tasks as they are shown, in order."""
        return list(dict.fromkeys(row.task for row in self.rows))

    def find_row(self, task: str, setting: Setting) -> SummaryRow | None:
        """Find the row of a task and a setting; None where none was planned."""
        return self._by_place.get((task, setting.key))

    @cached_property
    def _by_place(self) -> dict[tuple[str, SettingKey], SummaryRow]:
        return {(row.task, row.setting.key): row for row in self.rows}


def summarize(suite: SuiteFacts, outcomes: Sequence[RunOutcome]) -> Summary:
    """Put the runs of a suite into rows: in the order of its tasks, methods and grid values.

    Every planned run is in a row, whatever became of it.
    """
    grid_keys = tuple(dict.fromkeys(key for each in outcomes for key in each.run.grid))
    tasks = _order(suite.tasks, (each.run.task for each in outcomes))
    settings = _order_settings(suite, outcomes)
    by_place: dict[tuple[str, SettingKey], list[RunOutcome]] = {}
    for each in outcomes:
        by_place.setdefault((each.run.task, _setting_of(each).key), []).append(each)
    rows: list[SummaryRow] = []
    for task in tasks:
        placed = [(setting, by_place[task, setting.key]) for setting in settings if (task, setting.key) in by_place]
        rows += _build_rows(task, placed, suite.baselines)
    averages = _build_averages(tasks, rows) if len(tasks) > 1 else ()
    return Summary(tuple(rows), tuple(averages), grid_keys, suite.references)


def compute_stat(values: Sequence[float]) -> Stat | None:
    """Give mean, sample standard deviation (n - 1) and n; None without a value."""
    if not values:
        return None
    return Stat(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def student_quantile(freedom: int) -> float:
    """Give the quantile of Student's t that holds 95 % between it and its negative; 12.7 for one degree of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + _CONFIDENCE) / 2))


def _setting_of(outcome: RunOutcome) -> Setting:
    return Setting(outcome.run.method, outcome.run.grid)


def _order(first: Iterable[str], found: Iterable[str]) -> list[str]:
    """Order what was found as the suite has it; what it does not name comes last."""
    there = dict.fromkeys(found)
    return [*(name for name in first if name in there), *(name for name in there if name not in set(first))]


def _order_settings(suite: SuiteFacts, outcomes: Sequence[RunOutcome]) -> list[Setting]:
    """Order settings by method, and within one as the plan has them, which is the grid's order."""
    found = {setting.key: setting for setting in map(_setting_of, outcomes)}
    methods = _order(suite.methods, (setting.method for setting in found.values()))
    return sorted(found.values(), key=lambda setting: methods.index(setting.method))


def _build_rows(
    task: str, placed: Sequence[tuple[Setting, Sequence[RunOutcome]]], baselines: Sequence[str]
) -> Iterator[SummaryRow]:
    """Build a task's rows and, for MNLI, those of its mismatched set after them."""
    every = [each for _, outcomes in placed for each in outcomes]
    mismatched = [MISMATCHED] if any(map(has_mismatched, every)) else []
    for suffix in ("", *mismatched):
        shown = f"{task}{'-MM' if task.isupper() else '-mm'}" if suffix else task
        for setting, outcomes in placed:
            figures = {each.run.seed: read_run_metrics(each, suffix) for each in outcomes}
            yield SummaryRow(shown, setting, tuple(outcomes), figures, suffix)
        yield from _build_baselines(task, shown, suffix, every, baselines)


def _build_baselines(
    task: str, shown: str, suffix: str, outcomes: Sequence[RunOutcome], names: Sequence[str]
) -> Iterator[SummaryRow]:
    """Build the rows that need no run of their own: the records of the task's runs have measured them."""
    measured = [read_run_metrics(each, suffix).metric for each in outcomes if each.status == "success"]
    metric = next((name for name in measured if name), None)
    for found in collect_baselines(names, [task], outcomes):
        scores = {name: float(value) for name, value in found.metrics.items() if value is not None}
        values = {key: scores[key + suffix] for key in _BASELINE_FIGURES if key + suffix in scores}
        if metric is not None and metric + suffix in scores:
            values |= dict.fromkeys(("best", "last"), scores[metric + suffix])
        figures = {NO_SEED: RunMetrics(values, metric, "accuracy" if "accuracy" in values else "pearson")}
        yield SummaryRow(shown, Setting(found.name, is_baseline=True), (), figures, suffix, found.note)


def _build_averages(tasks: Sequence[str], rows: Sequence[SummaryRow]) -> Iterator[Average]:
    by_setting: dict[SettingKey, list[SummaryRow]] = {}
    for row in rows:
        if not row.suffix:
            by_setting.setdefault(row.setting.key, []).append(row)
    for placed in by_setting.values():
        yield Average(placed[0].setting, tuple(placed), tuple(tasks))


def _is_mixable(metric: str) -> bool:
    if not is_score(metric):
        return False
    try:
        return load_metric(metric.removesuffix(MISMATCHED)).greater_is_better
    except KeyError:
        return True

"""Runs over their seeds: one row per task, method and grid values, and averages over the tasks of a method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from utils.benchmark.combining import shorten_keys
from utils.benchmark.outcomes import FIGURES, MISMATCHED, RunOutcome
from utils.metrics.metric import load_metric
from utils.results.labels import is_score

if TYPE_CHECKING:
    from pandas import DataFrame, Series

SettingKey: TypeAlias = tuple[str, str, bool]

_CONFIDENCE = 0.95
_OWN_METRIC = ("best", "last", "interval_low", "interval_high")
_KINDS = {"accuracy": "accuracy_is", "memory": "memory_is"}


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
        from scipy.special import stdtrit  # scipy.stats would give the same, and takes three times as long to import

        # stdtrit is the quantile function of t: 12.7 for two seeds, 4.3 for three, 2.0 for many.
        half = float(stdtrit(self.n - 1, (1 + _CONFIDENCE) / 2)) * self.deviation / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    def scale(self, factor: float) -> Stat:
        """Give the same in another unit."""
        return Stat(self.mean * factor, None if self.deviation is None else self.deviation * factor, self.n)


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


@dataclass(frozen=True, eq=False)
class SummaryRow:
    """One task with one method and one set of grid values, over its seeds."""

    task: str
    """As it is shown: MNLI's second row ends in -mm."""
    setting: Setting
    outcomes: tuple[RunOutcome, ...]
    """Of every planned seed; empty for a baseline."""
    runs: DataFrame
    """By seed, FIGURES and what `read_figures` gives beside them; what was not measured is NaN."""
    suffix: str = ""
    note: str = ""
    """Why a baseline has no values."""

    @property
    def outcomes_by_seed(self) -> dict[int, RunOutcome]:
        """The outcomes by their seeds."""
        return {each.run.seed: each for each in self.outcomes}

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The task's own metric; more than one where the runs disagree, none where no run tells."""
        # Runs that failed name the metric that was planned, which counts only where no run has measured one.
        measured = self.runs["metric"][self.runs["best"].notna()]
        return tuple((self.runs["metric"] if measured.empty else measured).dropna().unique())

    @property
    def metric(self) -> str | None:
        """The task's own metric, where there is just one."""
        return self.metrics[0] if len(self.metrics) == 1 else None

    @property
    def factor(self) -> int:
        """By what tables multiply the own metric: scores by 100."""
        return 100 if self.metric and is_score(self.metric) else 1

    @cached_property
    def score(self) -> Stat | None:
        """The own metric over the seeds, as tables show it."""
        best = self.measure("best")
        return best.scale(self.factor) if best else None

    @property
    def num_done(self) -> int:
        """Runs with a result."""
        return sum(each.status == "success" for each in self.outcomes)

    @property
    def num_measured(self) -> int:
        """Seeds with a value of the task's own metric."""
        return len(self.values)

    @property
    def values(self) -> Series:
        """The task's own metric by seed, where it was measured; none where the runs disagree on what it is."""
        return self.runs["best"][:0] if len(self.metrics) > 1 else self.runs["best"].dropna()

    def measure(self, name: str) -> Stat | None:
        """Give mean, sample standard deviation and n of a figure over the seeds that have it; None where none has.

        A best accuracy is not averaged over runs that have one and runs for which Pearson stands in its place, nor
        memory over GPUs and processes.
        """
        mixed = len(self.metrics if name in _OWN_METRIC else self.find_kinds(name)) > 1
        return None if mixed else self._stats.get(name)

    def mean(self, name: str) -> float | None:
        """Give the mean of a figure over the seeds, as `measure` does."""
        found = self.measure(name)
        return found.mean if found else None

    def find_kinds(self, name: str) -> set[str]:
        """Name what an accuracy or a memory figure is: accuracy or pearson, vram or ram."""
        return self._kinds.get(name, set())

    def keep_seed(self, outcome: RunOutcome) -> SummaryRow:
        """Give the row of a single run of this one."""
        return replace(self, outcomes=(outcome,), runs=self.runs.loc[[outcome.run.seed]])

    @cached_property
    def _kinds(self) -> dict[str, set[str]]:
        return {name: set(self.runs[kind][self.runs[name].notna()]) for name, kind in _KINDS.items()}

    @cached_property
    def _stats(self) -> dict[str, Stat]:
        figures = self.runs[list(FIGURES)]
        if len(figures) == 1:  # the table of single runs asks for thousands of these
            return {name: Stat(value, None, 1) for name, value in figures.iloc[0].dropna().items()}
        sums = zip(FIGURES, figures.mean(), figures.std(ddof=1), figures.count(), strict=True)
        return {name: Stat(mean, sd if n > 1 else None, int(n)) for name, mean, sd, n in sums if n}


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
        return sum(row.num_measured for row in self.rows), sum(len(row.runs) for row in self.rows)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The tasks' metrics, which the average of the own metric mixes."""
        return tuple(dict.fromkeys(row.metric for row in self.rows if row.metric))

    @property
    def factor(self) -> int:
        """By what tables multiply the own metric; over several tasks there is an average of scores only."""
        return self.rows[0].factor

    @cached_property
    def score(self) -> Stat | None:
        """The average as tables show it; deviation and n (0) are missing where the tasks' seeds are not the same."""
        mean, over_seeds = self.mean("best"), self.measure_over_seeds()
        if mean is None:
            return None
        return replace(over_seeds or Stat(mean, None, 0), mean=mean).scale(self.factor)

    def find_kinds(self, name: str) -> set[str]:
        """Name what the tasks' accuracies or memory figures are."""
        return {kind for row in self.rows for kind in row.find_kinds(name)}

    def mean(self, name: str) -> float | None:
        """Average a figure over the tasks' means; None where a task lacks it or where the kinds do not mix.

        Own metrics mix as long as all are scores of which more is better, as in GLUE's own average; accuracy mixes
        with the Pearson's correlation that stands in its place; memory of GPUs and processes does not mix.
        """
        # Over a single task nothing is mixed: then it is the row's own mean.
        if len(self.tasks) > 1:
            if self.missing or (name == "memory" and len(self.find_kinds(name)) > 1):
                return None
            if name in ("best", "last") and not all(row.metric and _is_mixable(row.metric) for row in self.rows):
                return None
        means = [row.mean(name) for row in self.rows]
        known = [mean for mean in means if mean is not None]
        return math.fsum(known) / len(known) if known and len(known) == len(means) else None

    def measure_over_seeds(self) -> Stat | None:
        """Average the own metric over tasks within each seed, then measure it over seeds.

        None where the tasks' seeds are not the same ones: then only `mean` holds.
        """
        import pandas

        if self.mean("best") is None:
            return None
        # A seed that one of the tasks lacks becomes a line with a gap.
        by_task = pandas.concat([row.values for row in self.rows], axis="columns")
        return None if by_task.isna().any(axis=None) else compute_stat(by_task.mean(axis="columns"))


@dataclass(frozen=True)
class Summary:
    """All rows of a suite's table."""

    rows: tuple[SummaryRow, ...]
    totals: tuple[Average, ...]
    """One per setting."""
    grid_keys: tuple[str, ...]
    """All keys of the grid, in order."""
    reference_methods: tuple[str, ...] = ()
    """Methods that every other one is compared with; (): that of the first setting."""

    @property
    def averages(self) -> tuple[Average, ...]:
        """The totals; none where the suite has a single task."""
        return self.totals if len(self.totals[0].tasks) > 1 else ()

    @property
    def settings(self) -> list[Setting]:
        """The settings, in order, baselines last."""
        return [total.setting for total in self.totals]

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

    def name_setting(self, setting: Setting) -> str:
        """Name a setting as `lora, lora_r=4`."""
        shorts = shorten_keys(self.grid_keys)
        values = (f"{shorts[key]}={setting.grid[key]}" for key in self.grid_keys if key in setting.grid)
        return ", ".join([setting.method, *values])

    def name_metrics(self, task: str) -> str:
        """Name a task's own metric; more than one where its runs disagree."""
        return ", ".join(dict.fromkeys(name for row in self.rows if row.task == task for name in row.metrics))

    @cached_property
    def _by_place(self) -> dict[tuple[str, SettingKey], SummaryRow]:
        return {(row.task, row.setting.key): row for row in self.rows}


def compute_stat(values: Series) -> Stat | None:
    """Give mean, sample standard deviation (n - 1) and n; None without a value."""
    if values.empty:
        return None
    return Stat(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))


def is_more_better(metric: str) -> bool:
    """Tell whether more of a metric is better."""
    try:
        return load_metric(metric.removesuffix(MISMATCHED)).greater_is_better
    except KeyError:
        return metric not in ("loss", "perplexity") and not metric.endswith("_loss")


def _is_mixable(metric: str) -> bool:
    return is_score(metric) and is_more_better(metric)

"""Statistics over seeds: one row per task, method and grid values, and averages over the tasks of a method."""

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
        """Return Student's 95 % interval of the mean, which assumes normal values; None for a single value."""
        if self.deviation is None:
            return None
        from scipy.special import stdtrit  # scipy.stats takes three times as long to import

        # stdtrit is the quantile function of t: 12.7 for two seeds, 4.3 for three, 2.0 for many.
        half = float(stdtrit(self.n - 1, (1 + _CONFIDENCE) / 2)) * self.deviation / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    def scale(self, factor: float) -> Stat:
        """Return the same figure in another unit."""
        return Stat(self.mean * factor, None if self.deviation is None else self.deviation * factor, self.n)


@dataclass(frozen=True)
class Setting:
    """A method with its grid values: identifies a row together with its task."""

    method: str
    grid: Mapping[str, Any] = field(default_factory=dict)
    """Values by dotted key."""
    is_baseline: bool = False

    @property
    def key(self) -> SettingKey:
        """A hashable key: grid values may be lists."""
        return self.method, repr(sorted(self.grid.items())), self.is_baseline


@dataclass(frozen=True, eq=False)
class SummaryRow:
    """One task with one method and one set of grid values, over its seeds."""

    task: str
    """The task as shown: MNLI's second row ends in -mm."""
    setting: Setting
    outcomes: tuple[RunOutcome, ...]
    """Outcomes of all planned seeds; empty for a baseline."""
    runs: DataFrame
    """By seed, FIGURES and the other results of `read_figures`; NaN if not measured."""
    suffix: str = ""
    note: str = ""
    """Why a baseline has no values."""

    @property
    def outcomes_by_seed(self) -> dict[int, RunOutcome]:
        """The outcomes by seed."""
        return {each.run.seed: each for each in self.outcomes}

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The task's own metric; several if the runs disagree, none if no run tells."""
        # Failed runs name the planned metric, which counts only if no run has measured one.
        measured = self.runs["metric"][self.runs["best"].notna()]
        return tuple((self.runs["metric"] if measured.empty else measured).dropna().unique())

    @property
    def metric(self) -> str | None:
        """The task's own metric, if it is unique."""
        return self.metrics[0] if len(self.metrics) == 1 else None

    @property
    def factor(self) -> int:
        """Factor of the own metric in tables: 100 for scores."""
        return 100 if self.metric and is_score(self.metric) else 1

    @cached_property
    def score(self) -> Stat | None:
        """The own metric over the seeds, as tables show it."""
        best = self.measure("best")
        return best.scale(self.factor) if best else None

    @property
    def num_done(self) -> int:
        """Number of runs with a result."""
        return sum(each.status == "success" for each in self.outcomes)

    @property
    def num_measured(self) -> int:
        """Number of seeds with a value of the task's own metric."""
        return len(self.values)

    @property
    def values(self) -> Series:
        """The task's own metric by seed, where measured; empty if the runs disagree on the metric."""
        return self.runs["best"][:0] if len(self.metrics) > 1 else self.runs["best"].dropna()

    def measure(self, name: str) -> Stat | None:
        """Return mean, sample standard deviation and n of a figure over the seeds that have it; None if none has.

        Different kinds are not averaged: accuracies with Pearson correlations that replace them, or memory of GPUs with
        that of processes.
        """
        mixed = len(self.metrics if name in _OWN_METRIC else self.find_kinds(name)) > 1
        return None if mixed else self._stats.get(name)

    def mean(self, name: str) -> float | None:
        """Return the mean of a figure over the seeds, as `measure` does."""
        found = self.measure(name)
        return found.mean if found else None

    def find_kinds(self, name: str) -> set[str]:
        """Return the kinds of an accuracy or memory figure: accuracy or pearson, vram or ram."""
        return self._kinds.get(name, set())

    def keep_seed(self, outcome: RunOutcome) -> SummaryRow:
        """Return this row with a single run."""
        return replace(self, outcomes=(outcome,), runs=self.runs.loc[[outcome.run.seed]])

    @cached_property
    def _kinds(self) -> dict[str, set[str]]:
        return {name: set(self.runs[kind][self.runs[name].notna()]) for name, kind in _KINDS.items()}

    @cached_property
    def _stats(self) -> dict[str, Stat]:
        figures = self.runs[list(FIGURES)]
        if len(figures) == 1:  # faster: the table of single runs needs thousands
            return {name: Stat(value, None, 1) for name, value in figures.iloc[0].dropna().items()}
        sums = zip(FIGURES, figures.mean(), figures.std(ddof=1), figures.count(), strict=True)
        return {name: Stat(mean, sd if n > 1 else None, int(n)) for name, mean, sd, n in sums if n}


@dataclass(frozen=True)
class Average:
    """One setting over all tasks, each task counted once: MNLI by its matched set."""

    setting: Setting
    rows: tuple[SummaryRow, ...]
    tasks: tuple[str, ...]
    """All tasks of the suite; if one lacks a result, the setting has no average."""

    @property
    def missing(self) -> tuple[str, ...]:
        """Tasks without a value of the task's own metric."""
        measured = {row.task for row in self.rows if row.num_measured}
        return tuple(task for task in self.tasks if task not in measured)

    @property
    def num_runs(self) -> tuple[int, int]:
        """Number of runs in the average, and of planned runs."""
        return sum(row.num_measured for row in self.rows), sum(len(row.runs) for row in self.rows)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The tasks' metrics, which the average of the own metric mixes."""
        return tuple(dict.fromkeys(row.metric for row in self.rows if row.metric))

    @property
    def factor(self) -> int:
        """Factor of the own metric in tables; over several tasks, only scores are averaged."""
        return self.rows[0].factor

    @cached_property
    def score(self) -> Stat | None:
        """The average as tables show it, without deviation and n (0) if the tasks' seeds differ."""
        mean, over_seeds = self.mean("best"), self.measure_over_seeds()
        if mean is None:
            return None
        return replace(over_seeds or Stat(mean, None, 0), mean=mean).scale(self.factor)

    def find_kinds(self, name: str) -> set[str]:
        """Return the kinds of the tasks' accuracies or memory figures."""
        return {kind for row in self.rows for kind in row.find_kinds(name)}

    def mean(self, name: str) -> float | None:
        """Average a figure over the tasks' means; None if a task lacks it or the kinds do not mix.

        Own metrics mix if all are scores of which greater is better, as in GLUE's own average; accuracy mixes with the
        Pearson correlations that replace it; memory of GPUs and processes does not mix.
        """
        # With a single task this is the row's own mean.
        if len(self.tasks) > 1:
            if self.missing or (name == "memory" and len(self.find_kinds(name)) > 1):
                return None
            if name in ("best", "last") and not all(row.metric and _is_mixable(row.metric) for row in self.rows):
                return None
        means = [row.mean(name) for row in self.rows]
        known = [mean for mean in means if mean is not None]
        return math.fsum(known) / len(known) if known and len(known) == len(means) else None

    def measure_over_seeds(self) -> Stat | None:
        """Average the own metric over tasks within each seed, then compute statistics over seeds.

        None if the tasks' seeds differ: then only `mean` is valid.
        """
        import pandas

        if self.mean("best") is None:
            return None
        # A seed that one of the tasks lacks becomes a row with a gap.
        by_task = pandas.concat([row.values for row in self.rows], axis="columns")
        return None if by_task.isna().any(axis=None) else compute_stat(by_task.mean(axis="columns"))


@dataclass(frozen=True)
class Summary:
    """All rows of a suite's table."""

    rows: tuple[SummaryRow, ...]
    totals: tuple[Average, ...]
    """One average per setting."""
    grid_keys: tuple[str, ...]
    """All keys of the grid, in order."""
    reference_methods: tuple[str, ...] = ()
    """Methods that all others are compared with; (): that of the first setting."""

    @property
    def averages(self) -> tuple[Average, ...]:
        """The totals; empty for a suite with a single task."""
        return self.totals if len(self.totals[0].tasks) > 1 else ()

    @property
    def settings(self) -> list[Setting]:
        """The settings, in order, baselines last."""
        return [total.setting for total in self.totals]

    @property
    def references(self) -> list[Setting]:
        """The settings that all others are compared with: the first of each reference method."""
        own = [setting for setting in self.settings if not setting.is_baseline]
        wanted = self.reference_methods or tuple(setting.method for setting in own[:1])
        found = (next((each for each in own if each.method == method), None) for method in wanted)
        return [setting for setting in found if setting is not None]

    @property
    def tasks(self) -> list[str]:
        """The tasks as shown, in order."""
        return list(dict.fromkeys(row.task for row in self.rows))

    def find_row(self, task: str, setting: Setting) -> SummaryRow | None:
        """Find the row of a task and a setting; None if none was planned."""
        return self._by_place.get((task, setting.key))

    def name_setting(self, setting: Setting) -> str:
        """Return a setting as `lora, lora_r=4`."""
        shorts = shorten_keys(self.grid_keys)
        values = (f"{shorts[key]}={setting.grid[key]}" for key in self.grid_keys if key in setting.grid)
        return ", ".join([setting.method, *values])

    def name_metrics(self, task: str) -> str:
        """Return a task's own metric; several if its runs disagree."""
        return ", ".join(dict.fromkeys(name for row in self.rows if row.task == task for name in row.metrics))

    @cached_property
    def _by_place(self) -> dict[tuple[str, SettingKey], SummaryRow]:
        return {(row.task, row.setting.key): row for row in self.rows}


def compute_stat(values: Series) -> Stat | None:
    """Return mean, sample standard deviation (n - 1) and n; None without a value."""
    if values.empty:
        return None
    return Stat(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None, len(values))


def is_more_better(metric: str) -> bool:
    """Return whether a greater value of a metric is better."""
    try:
        return load_metric(metric.removesuffix(MISMATCHED)).greater_is_better
    except KeyError:
        return metric not in ("loss", "perplexity") and not metric.endswith("_loss")


def _is_mixable(metric: str) -> bool:
    return is_score(metric) and is_more_better(metric)

"""Aggregate the runs of a suite into rows, and compare settings over their common seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from utils.benchmark.outcomes import (
    FIGURES,
    MISMATCHED,
    RunOutcome,
    SuiteFacts,
    has_mismatched,
    read_figures,
    read_majority,
)
from utils.benchmark.statistics import (
    Average,
    Setting,
    SettingKey,
    Stat,
    Summary,
    SummaryRow,
    compute_stat,
    is_more_better,
)

if TYPE_CHECKING:
    from pandas import DataFrame

Finding = Literal["better", "worse", "not told apart", "no claim"]

_NO_SEED = -1  # of a baseline
_NOISE = 1e-9  # rounding error of differences that are all equal
_BASELINE_FIGURES = ("accuracy", "f1", "matthews_correlation", "pearson", "spearmanr")


@dataclass(frozen=True)
class Comparison:
    """One task's own metric in two settings, one of them a reference."""

    task: str
    setting: Setting
    reference: Setting
    metric: str | None
    seeds: tuple[int, ...]
    """Seeds with a value in both settings."""
    difference: Stat | None
    """Setting minus reference, paired by seed; None without a common seed."""
    interval: tuple[float, float] | None
    """Student's 95 % interval of the mean difference; None if nothing is claimed."""
    finding: Finding
    """`better` or `worse` if the interval excludes 0; `no claim` with fewer than two common seeds, or if the difference
    is the same for every seed, which tells nothing about its spread."""


def summarize(suite: SuiteFacts, outcomes: Sequence[RunOutcome]) -> Summary:
    """Aggregate the runs of a suite into rows, in the order of its tasks, methods and grid values.

    Every planned run is in a row, with or without a result.
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
    return Summary(tuple(rows), tuple(_build_totals(tasks, rows)), grid_keys, suite.references)


def compare_settings(summary: Summary) -> list[Comparison]:
    """Compare every setting with the references, task by task; baselines have no seeds of their own.

    The intervals are not corrected for multiple comparisons.
    """
    settings = [setting for setting in summary.settings if not setting.is_baseline]
    return [
        _compare_rows(row, reference)
        for task in summary.tasks
        for chosen in summary.references
        for setting in settings
        if setting.key != chosen.key
        and (row := summary.find_row(task, setting)) is not None
        and (reference := summary.find_row(task, chosen)) is not None
    ]


def _setting_of(outcome: RunOutcome) -> Setting:
    return Setting(outcome.run.method, outcome.run.grid)


def _order(first: Iterable[str], found: Iterable[str]) -> list[str]:
    """Sort `found` in the suite's order; unknown names come last."""
    there = dict.fromkeys(found)
    return [*(name for name in first if name in there), *(name for name in there if name not in set(first))]


def _order_settings(suite: SuiteFacts, outcomes: Sequence[RunOutcome]) -> list[Setting]:
    """Sort settings by method, and within a method in the plan's order, which is the grid's."""
    found = {setting.key: setting for setting in map(_setting_of, outcomes)}
    methods = _order(suite.methods, (setting.method for setting in found.values()))
    return sorted(found.values(), key=lambda setting: methods.index(setting.method))


def _build_rows(
    task: str, placed: Sequence[tuple[Setting, Sequence[RunOutcome]]], baselines: Sequence[str]
) -> Iterator[SummaryRow]:
    """Yield a task's rows, followed for MNLI by those of its mismatched set."""
    every = [each for _, outcomes in placed for each in outcomes]
    mismatched = [MISMATCHED] if any(map(has_mismatched, every)) else []
    for suffix in ("", *mismatched):
        shown = f"{task}{'-MM' if task.isupper() else '-mm'}" if suffix else task
        for setting, outcomes in placed:
            runs = _build_runs({each.run.seed: read_figures(each, suffix) for each in outcomes})
            yield SummaryRow(shown, setting, tuple(outcomes), runs, suffix)
        for name in baselines:
            yield _build_majority(name, shown, suffix, every)


def _build_runs(by_seed: dict[int, dict[str, Any]]) -> DataFrame:
    from pandas import DataFrame

    kinds = dict.fromkeys(FIGURES, float) | dict.fromkeys(("metric", "accuracy_is", "memory_is"), object)
    return DataFrame(list(by_seed.values()), index=list(by_seed), columns=list(kinds)).astype(kinds)


def _build_majority(name: str, shown: str, suffix: str, outcomes: Sequence[RunOutcome]) -> SummaryRow:
    """Build the row of the majority baseline, which the records of the task's runs contain."""
    measured = [read_figures(each, suffix)["metric"] for each in outcomes if each.status == "success"]
    metric = next((metric for metric in measured if metric), None)
    found, note = read_majority(outcomes)
    scores = {key: value for key, value in found.items() if value is not None}
    values = {key: scores[key + suffix] for key in _BASELINE_FIGURES if key + suffix in scores}
    # The row has no own metric if the task's is a loss, or one that is undefined for the baseline.
    if f"{metric}{suffix}" in scores:
        note = ""
        values |= dict.fromkeys(("best", "last"), scores[f"{metric}{suffix}"])
    facts = {"metric": metric, "accuracy_is": "accuracy" if "accuracy" in values else "pearson"}
    return SummaryRow(shown, Setting(name, is_baseline=True), (), _build_runs({_NO_SEED: values | facts}), suffix, note)


def _build_totals(tasks: Sequence[str], rows: Sequence[SummaryRow]) -> list[Average]:
    """Build one total per setting, baselines last; MNLI counts once."""
    by_setting: dict[SettingKey, list[SummaryRow]] = {}
    for row in rows:
        if not row.suffix:
            by_setting.setdefault(row.setting.key, []).append(row)
    totals = [Average(placed[0].setting, tuple(placed), tuple(tasks)) for placed in by_setting.values()]
    return sorted(totals, key=lambda total: total.setting.is_baseline)


def _compare_rows(row: SummaryRow, reference: SummaryRow) -> Comparison:
    mine, other = row.values, reference.values
    metric = row.metric if row.metric == reference.metric else None
    # Pairing removes what runs of one seed share: data order and, where possible, initialisation.
    seeds = mine.index.intersection(other.index, sort=False) if metric else mine.index[:0]
    difference = compute_stat(mine[seeds] - other[seeds])
    varies = difference is not None and (difference.deviation or 0) > _NOISE  # false for a single seed
    interval = difference.interval() if difference is not None and varies else None
    finding = _judge(metric, interval) if metric and interval else "no claim"
    return Comparison(row.task, row.setting, reference.setting, metric, tuple(seeds), difference, interval, finding)


def _judge(metric: str, interval: tuple[float, float]) -> Finding:
    low, high = interval
    if low <= 0 <= high:
        return "not told apart"
    return "better" if (low > 0) == is_more_better(metric) else "worse"

"""The suite in one line per setting: what it costs, what it scores on each task, and on all of them."""

from __future__ import annotations

from dataclasses import dataclass

from utils.benchmark.aggregate import Average, Setting, Stat, Summary, SummaryRow
from utils.benchmark.columns import name_setting
from utils.results.labels import is_score


@dataclass(frozen=True)
class SettingLine:
    """One setting over the suite's tasks."""

    setting: Setting
    name: str
    rows: tuple[SummaryRow | None, ...]
    """By task as it is shown; None where no run was planned."""
    average: Average | None
    """None where the suite has a single task."""

    @property
    def overall(self) -> float | None:
        """The score over all tasks, as tables show it; None where a task has no result."""
        if self.average is not None:
            mean = self.average.mean("best")
            return None if mean is None else mean * 100
        best = self.rows[0].measure("best") if self.rows[0] else None
        return None if best is None else best.mean * self.factors[0]

    @property
    def overall_deviation(self) -> float | None:
        """Its sample standard deviation over seeds, as tables show it; None where the tasks' seeds differ."""
        if self.average is None:
            return self.deviations[0]
        over_seeds = self.average.measure_over_seeds()
        return None if over_seeds is None or over_seeds.deviation is None else over_seeds.deviation * 100

    @property
    def scores(self) -> list[float | None]:
        """Mean of the own metric by task, as tables show it."""
        return [each.mean * factor if each else None for each, factor in zip(self._spreads, self.factors, strict=True)]

    @property
    def deviations(self) -> list[float | None]:
        """Sample standard deviation of the own metric by task, as tables show it."""
        return [
            each.deviation * factor if each and each.deviation is not None else None
            for each, factor in zip(self._spreads, self.factors, strict=True)
        ]

    @property
    def factors(self) -> list[int]:
        """By what tables multiply the own metric of each task: scores by 100."""
        return [100 if row and row.metric and is_score(row.metric) else 1 for row in self.rows]

    @property
    def memory_is(self) -> set[str]:
        """What the memory is of: vram, ram, or both."""
        return {kind for row in self.rows if row for kind in row.find_kinds("memory")}

    def measure_cost(self, figure: str) -> float | None:
        """Average a cost over the tasks; None where a task has no result, or where kinds of memory do not mix."""
        if self.average is not None:
            return self.average.mean(figure)
        measured = self.rows[0].measure(figure) if self.rows[0] else None
        return measured.mean if measured else None

    @property
    def _spreads(self) -> list[Stat | None]:
        return [row.measure("best") if row and row.metric else None for row in self.rows]


def list_setting_lines(summary: Summary) -> list[SettingLine]:
    """List the settings in order, baselines last."""
    averages = {each.setting.key: each for each in summary.averages}
    settings = sorted(summary.settings, key=lambda setting: setting.is_baseline)
    return [
        SettingLine(
            setting,
            name_setting(setting, summary.grid_keys),
            tuple(summary.find_row(task, setting) for task in summary.tasks),
            averages.get(setting.key),
        )
        for setting in settings
    ]


def name_metrics(summary: Summary, task: str) -> str:
    """Name a task's own metric; more than one where its runs disagree."""
    found = [name for row in summary.rows if row.task == task for name in row.metrics]
    return ", ".join(dict.fromkeys(found))

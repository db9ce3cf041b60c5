"""Plan a suite: its runs, the values that searches choose on seeds of their own, and the runs that use them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.benchmark.choices import ALL, Choices
from utils.benchmark.outcomes import RunOutcome, collect_outcomes, read_figures
from utils.benchmark.plan import Plan, SearchKey, inspect_plan, require_runs
from utils.benchmark.statistics import is_more_better
from utils.benchmark.suite import Suite
from utils.benchmark.suite_reader import read_suite
from utils.config.yaml_text import read_document
from utils.core.errors import ConfigError
from utils.run_config.load import Check


@dataclass(frozen=True)
class Choice:
    """The choice of a search, for one task, method and set of grid values."""

    values: dict[str, Any] | None
    """Values by dotted key; None if no run of the search has a score."""
    scores: dict[str, float]
    """Mean of the task's own metric over the search's seeds, by the tried values."""


def plan_suite(suite: Suite, choices: Choices = ALL, files: bool = True) -> Plan:
    """Plan the runs of the searches, and the reported runs with the values that searches have chosen.

    Raises:
        ConfigError: With every distinct mistake in the runs' configurations.
        UserError: The command line names something that the suite lacks, or leaves no run.
    """
    plan = inspect_plan(suite, choices, files)
    if plan.pending and not plan.problems:
        chosen = {key: found for key, found in choose_values(plan).items() if found.values is not None}
        plan = inspect_plan(suite, choices, files, {key: each.values or {} for key, each in chosen.items()})
        plan.notices += [_describe_choice(key, each) for key, each in chosen.items()]
    require_runs(plan)
    return plan


def inspect_suite(path: str | Path, overrides: Sequence[str] = ()) -> tuple[list[Check], Plan | None]:
    """Check a suite's file step by step, as validate_config.py does.

    Returns the numbered checks as far as they got, and the plan if no check failed.
    """
    checks = [Check("reads as YAML")]
    try:
        read_document(path)
        checks.append(Check("tasks, methods, grid and seeds"))
        suite = read_suite(path)
        checks.append(Check("its runs"))
        plan = inspect_plan(suite, Choices(overrides=tuple(overrides)))
    except ConfigError as error:
        checks[-1].problems += error.problems  # the last, unfinished step
        return checks, None
    checks[-1].title, checks[-1].num = "its {num} runs", plan.num_combinations
    checks[-1].problems += sorted(plan.problems, key=lambda problem: problem.position)
    if plan.problems:
        return checks, None
    return [*checks, Check("every setting has an effect", warnings=plan.warnings)], plan


def choose_values(plan: Plan) -> dict[SearchKey, Choice]:
    """Choose the best values of every search whose runs have all ended; of equals the first."""
    groups: dict[SearchKey, list[RunOutcome]] = defaultdict(list)
    for outcome in collect_outcomes([run for run in plan.runs if run.is_search]):
        groups[outcome.run.search_key].append(outcome)
    ended = ("success", "failed", "timed out")
    return {key: _choose(runs) for key, runs in groups.items() if all(each.status in ended for each in runs)}


def _choose(runs: Sequence[RunOutcome]) -> Choice:
    from pandas import DataFrame

    figures = [read_figures(each) for each in runs]
    tried = {repr(each.run.searched): each.run.searched for each in runs}
    table = DataFrame({"tried": [repr(each.run.searched) for each in runs], "best": [f.get("best") for f in figures]})
    # A candidate needs scores on all its seeds: a mean over easy ones would win.
    means = table.astype({"best": float}).groupby("tried", sort=False)["best"].mean(skipna=False).dropna()
    metric = next((str(f["metric"]) for f in figures if f.get("best") is not None), None)
    if means.empty or metric is None:
        return Choice(None, {})
    best = means.idxmax() if is_more_better(metric) else means.idxmin()
    scores = {_write(tried[each]): means[each] for each in means.index}
    return Choice(tried[best], scores)


def _describe_choice(key: SearchKey, choice: Choice) -> str:
    """Describe the chosen values and the alternatives."""
    task, method, grid = key
    values = _write(choice.values)
    scores = "; ".join(f"{name}: {score:.4f}" for name, score in choice.scores.items())
    return f"{task}, {method}{f', {grid}' if grid else ''}: the search has chosen {values} (on its own seeds: {scores})"


def _write(values: dict[str, Any] | None) -> str:
    return ", ".join(f"{name}={value}" for name, value in (values or {}).items())

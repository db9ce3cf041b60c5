"""Checks a suite's file as validate_config.py does: step by step, every run's configuration among them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.benchmark.choices import Choices
from utils.benchmark.plan import Plan, inspect_plan
from utils.benchmark.suite import read_suite
from utils.config.yaml_text import read_document
from utils.core.errors import ConfigError
from utils.run_config.load import Check


def inspect_suite(path: str | Path, overrides: Sequence[str] = ()) -> tuple[list[Check], Plan | None]:
    """Inspect a suite's file.

    Args:
        path: The suite.
        overrides: `key=value` words from the command line, laid over every run.

    Returns:
        The numbered checks as far as they got, and the plan where no check failed.
    """
    readable, own = Check("reads as YAML"), Check("tasks, methods, grid and seeds")
    try:
        read_document(path)
    except ConfigError as error:
        readable.problems += error.problems
        return [readable], None
    try:
        suite = read_suite(path)
    except ConfigError as error:
        own.problems += error.problems
        return [readable, own], None
    runs = Check("its runs")
    try:
        plan = inspect_plan(suite, Choices(overrides=tuple(overrides)))
    except ConfigError as error:
        runs.problems += error.problems
        return [readable, own, runs], None
    runs.title = f"its {plan.num_combinations} runs"
    runs.problems += sorted(plan.problems, key=lambda problem: problem.position)
    effective = Check("every setting has an effect", warnings=plan.warnings)
    failed = bool(plan.problems)
    return [readable, own, runs, *([] if failed else [effective])], None if failed else plan

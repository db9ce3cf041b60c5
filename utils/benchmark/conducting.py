"""Conducts a suite from its plan to its reports: locks the folder, lets the runs work, and always writes the table."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.benchmark.live import Board
from utils.benchmark.outcomes import RunOutcome, SuiteFacts, collect_outcomes
from utils.benchmark.plan import Plan, PlannedRun
from utils.benchmark.running import Rules, Runner
from utils.benchmark.slots import list_slots
from utils.benchmark.standing import is_finished
from utils.benchmark.state import LOCKS, lock_suite, wait_for_lock
from utils.errors import EXIT_FAILED, EXIT_INTERRUPTED
from utils.masking import mask_command

if TYPE_CHECKING:
    from utils.doors import Answer

_WIDTH_OF_LOGS = 160

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manner:
    """How a suite is worked on."""

    jobs: int | None = None
    """Runs at the same time; None: one for each GPU, or one."""
    retries: int = 0
    """Further attempts at runs that fail or have failed."""
    shard: tuple[int, int] | None = None
    """Which part of how many, from 1."""
    submission: bool = False
    """Collect the GLUE server's files when the runs have ended."""


def conduct_suite(plan: Plan, manner: Manner) -> Answer:
    """Run what is not done yet, then write the reports; Ctrl-C stops the runs and still writes them.

    Raises:
        UserError: Another suite, or the same shard, is at work in the folder.
    """
    from rich.console import Console

    slots = list_slots(manner.jobs)
    minutes = plan.suite.section.timeout_minutes
    rules = Rules(slots, minutes * 60 if minutes else None, manner.retries)
    with ExitStack() as stack:
        for lock in lock_suite(plan.output, manner.shard):
            stack.enter_context(lock)
        board = Board(len(plan.shard), Console())
        try:
            finished = Runner(plan.shard, rules, board).work()
        finally:
            board.close()
        return report_suite(plan, manner.submission, interrupted=not finished)


def report_suite(plan: Plan, submission: bool = False, interrupted: bool = False) -> Answer:
    """Write the reports of whatever the folder holds, show the summary, and say how it ended.

    Args:
        plan: The suite.
        submission: Collect the GLUE server's files too.
        interrupted: Whether the runs were stopped before their end.

    Raises:
        UserError: The folder cannot be written, or there are no files for the server.
    """
    from rich.console import Console

    from utils.benchmark.reports import write_reports
    from utils.benchmark.submission import write_submission_zips
    from utils.benchmark.summary import render_summary

    with _undisturbed(), wait_for_lock(plan.output / LOCKS / "reports.lock"):
        outcomes = collect_outcomes(_choose_reported(plan))
        facts = describe_suite(plan)
        written = write_reports(plan.output, facts, outcomes)
        console = Console()
        if not console.is_terminal:
            console.width = _WIDTH_OF_LOGS
        console.print(render_summary(facts, outcomes))
        if submission and not interrupted:
            zips = write_submission_zips(plan.output, facts, outcomes)
            written |= {f"submission of {each.setting}": each.path for each in zips}
    for path in written.values():
        logger.info("%s", path)
    return _answer(plan, outcomes, written, interrupted)


def describe_suite(plan: Plan) -> SuiteFacts:
    """Describe a suite as its reports need it."""
    section = plan.suite.section
    return SuiteFacts(
        name=section.suite,
        source=plan.suite.source,
        tasks=tuple(dict.fromkeys(run.task for run in plan.runs)),
        methods=tuple(plan.methods),
        references=tuple(dict.fromkeys(section.references or ())),
        baselines=tuple(section.baselines),
        language=section.results.language,
        workbook=section.results.name or "results",
        command=shlex.join(["python", "benchmark.py", *mask_command(sys.argv[1:])]),
    )


def _choose_reported(plan: Plan) -> list[PlannedRun]:
    """Take the runs that are wanted, and of the suite's others those that somebody has run already."""
    wanted = {run.name for run in plan.wanted}
    return [run for run in plan.runs if run.name in wanted or is_finished(run)]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no Ctrl-C tear the reports."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _answer(plan: Plan, outcomes: list[RunOutcome], written: dict[str, Path], interrupted: bool) -> dict[str, Any]:
    mine = {run.name for run in plan.shard}
    failed = [each for each in outcomes if each.run.name in mine and each.status in ("failed", "timed out")]
    status = "interrupted" if interrupted else "failed" if failed else "success"
    for each in failed:
        logger.error("%s %s: %s (log: %s)", each.run.name, each.status, each.note, each.run.log)
    codes = {"interrupted": EXIT_INTERRUPTED, "failed": EXIT_FAILED, "success": 0}
    return {
        "status": status,
        "suite": plan.suite.section.suite,
        "output_dir": str(plan.output),
        "runs": [{"name": each.run.name, "status": each.status, "note": each.note} for each in outcomes],
        "reports": {name: str(path) for name, path in written.items()},
        "exit_code": codes[status],
    }

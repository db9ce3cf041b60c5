"""Run a suite from its plan to its reports: lock the folder, start the runs, and always write the table."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from utils.benchmark.attempt import GRACE_S, Attempt, Slot, list_slots, start_attempt
from utils.benchmark.launchers.array_job import find_jobs
from utils.benchmark.outcomes import RunOutcome, SuiteFacts, collect_outcomes
from utils.benchmark.plan import Plan, PlannedRun
from utils.benchmark.progress import ProgressDisplay
from utils.benchmark.state import LOCKS, find_status, is_finished, lock_suite, wait_for_lock
from utils.benchmark.warm_start import WarmProcess, warm_process
from utils.core.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_REQUEUE, UserError
from utils.core.secrets import mask_command
from utils.core.signals import handling, leave_terminal

if TYPE_CHECKING:
    from utils.cli.command_line import Answer

_TICK_S = 0.1
GRACE_OF_JOB_S = 600.0
"""For a job's run: the scheduler ends it earlier when its time is over."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
_WIDTH_OF_LOGS = 160

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SuiteOptions:
    """Options for running a suite."""

    jobs: int | None = None
    """Runs at the same time; None: one per GPU, or one."""
    retry: int = 0
    """Further attempts at runs that fail or have failed."""
    shard: tuple[int, int] | None = None
    """Index, from 1, and number of parts."""
    submission: bool = False
    """Whether to collect the GLUE server's files when the runs have ended."""
    fork: bool = True
    """Whether runs are forked from a process that has imported the libraries, if the platform supports it."""


def run_suite(plan: Plan, options: SuiteOptions) -> Answer:
    """Run what is not done yet, then write the reports, also after Ctrl-C, which stops the runs.

    Raises:
        UserError: Another suite, or the same shard, is working in the folder.
    """
    from utils.core.terminal import build_console

    section = plan.suite.section
    slots = [replace(slot, suite=section.suite) for slot in list_slots(options.jobs, shares=not section.launch)]
    config = RunnerConfig(slots, section.timeout_s, options.retry, options.fork)
    with ExitStack() as stack:
        for lock in lock_suite(plan.output, options.shard):
            stack.enter_context(lock)
        with closing(ProgressDisplay(len(plan.shard), build_console())) as display:
            finished = Runner(plan.shard, config, display).work()
        return report_suite(plan, options.submission, interrupted=not finished)


def run_single(plan: Plan, options: SuiteOptions) -> Answer:
    """Work on one run while others may work on the suite's others, as each job of an array does, without reports.

    The exit code is 75 if the run saved itself and is to be queued again.

    Raises:
        UserError: A whole suite is working in the folder.
    """
    from utils.core.terminal import build_console

    section = plan.suite.section
    slots = [Slot(0, suite=section.suite)]
    config = RunnerConfig(slots, section.timeout_s, options.retry, fork=False, grace_s=GRACE_OF_JOB_S)
    with ExitStack() as stack:
        for lock in lock_suite(plan.output, None, single=True):
            stack.enter_context(lock)
        with closing(ProgressDisplay(1, build_console())) as display:
            Runner(plan.shard, config, display).work()
        answer = _answer(plan, collect_outcomes(plan.shard), {}, interrupted=False)
    stopped = any(run["status"] == "interrupted" for run in answer["runs"])
    return answer | ({"status": "interrupted", "exit_code": EXIT_REQUEUE} if stopped else {})


def show_status(plan: Plan) -> Answer:
    """Print the status of every run, from its files and the scheduler's queue."""
    jobs: dict[str, str] = {}
    try:
        jobs = find_jobs(plan)
    except UserError as error:
        logger.warning("the queue is unknown: %s", error)
    statuses = {run.name: find_status(run) for run in plan.wanted}
    width = max(map(len, statuses))
    for name, status in statuses.items():
        print(f"{name:<{width}}  {status:<11}  {jobs.get(name, '')}".rstrip())  # noqa: T201  the command's own output
    counts = ", ".join(f"{count} {status}" for status, count in Counter(statuses.values()).items())
    print(f"\n{len(statuses)} runs: {counts}; {len(jobs)} in the queue; folder: {plan.output}")  # noqa: T201  this command's output
    runs = [{"name": name, "status": status, "job": jobs.get(name)} for name, status in statuses.items()]
    return {"status": "planned", "output_dir": str(plan.output), "runs": runs}


def report_suite(plan: Plan, submission: bool = False, interrupted: bool = False) -> Answer:
    """Write the reports of the folder's finished runs, show the summary, and return the command's answer.

    With `submission` the GLUE server's files are collected too, unless the runs were stopped early.

    Raises:
        UserError: The folder cannot be written, or there are no files for the server.
    """
    from utils.benchmark.aggregate import summarize
    from utils.benchmark.reports import write_reports
    from utils.benchmark.submission import write_submission_zips
    from utils.benchmark.summary import render_summary
    from utils.core.terminal import build_console

    # Neither Ctrl-C nor another shard may interfere with writing the reports.
    with handling(_SIGNALS, signal.SIG_IGN), wait_for_lock(plan.output / LOCKS / "reports.lock"):
        every = collect_outcomes(_choose_reported(plan))
        outcomes = [each for each in every if not each.run.is_search]
        if not outcomes:
            logger.info("nothing to report yet: the searches have not ended")
            return _answer(plan, every, {}, interrupted)
        facts = _describe_suite(plan)
        summary = summarize(facts, outcomes)
        written = write_reports(plan.output, facts, summary, every)
        console = build_console()
        if not console.is_terminal:
            console.width = _WIDTH_OF_LOGS
        console.print(render_summary(facts, summary, outcomes))
        if submission and not interrupted:
            zips = write_submission_zips(plan.output, summary)
            written |= {f"submission of {each.setting}": each.path for each in zips}
    for path in written.values():
        logger.info("%s", path)
    return _answer(plan, every, written, interrupted)


def _describe_suite(plan: Plan) -> SuiteFacts:
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
    """Choose the selected runs, and the suite's other runs that have been started."""
    wanted = {run.name for run in plan.wanted}
    return [run for run in plan.runs if run.name in wanted or is_finished(run)]


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


@dataclass(frozen=True)
class RunnerConfig:
    """Settings for starting the runs."""

    slots: Sequence[Slot]
    timeout_s: float | None = None
    """Seconds after which a run is stopped; None: never."""
    retries: int = 0
    """Further attempts at a run that fails, and at one that failed in an earlier call."""
    fork: bool = True
    grace_s: float = GRACE_S
    """Seconds that a stopped run has to save its work."""


class Runner:
    """Starts, watches and ends the processes of the runs."""

    def __init__(self, runs: Sequence[PlannedRun], config: RunnerConfig, display: ProgressDisplay) -> None:
        self._config = config
        self._display = display
        self._waiting: deque[tuple[PlannedRun, int]] = deque()
        self._active: list[Attempt] = []
        for run in runs:
            status = find_status(run)
            if status == "done":
                display.skip(run, "done", "before, by the same configuration")
            elif status in ("failed", "timed out") and not config.retries:
                display.skip(run, status, f"{status} before; --retry tries it again")
            else:
                is_retry = status in ("failed", "timed out")  # the first attempt is one of the retries
                self._waiting.append((run, config.retries - is_retry))

    def work(self) -> bool:
        """Work until every run has ended, or Ctrl-C, a scheduler's SIGTERM or a closed terminal stops them all.

        Returns whether all runs have ended.
        """
        forked = [run for run, _ in self._waiting if not run.launch]
        wanted = self._config.fork and len(forked) > 1  # a single run would wait for the same imports
        environment = self._config.slots[0].build_environment()
        with _count_interruptions() as interruptions, warm_process(environment, wanted) as warm:
            try:
                while (self._waiting or self._active) and not interruptions:
                    if warm is None or not warm.is_importing():
                        self._fill_slots(warm)
                    self._check_attempts()
                    self._display.show(self._active, len(self._waiting))
                    time.sleep(_TICK_S)
                if interruptions:
                    self._stop_all(interruptions)
            finally:
                for attempt in self._active:  # non-empty only after a bug
                    attempt.stop("interrupted", grace_s=0)
        return not interruptions

    def _fill_slots(self, warm: WarmProcess | None) -> None:
        taken = {attempt.slot for attempt in self._active}
        for slot in self._config.slots:
            if slot not in taken and self._waiting:
                run, left = self._waiting.popleft()
                attempt = start_attempt(run, slot, self._config.timeout_s, left, warm)
                if attempt is None:
                    self._display.skip(run, "running", "another suite is at work on it")
                    continue
                self._active.append(attempt)
                self._display.start(attempt)

    def _check_attempts(self) -> None:
        for attempt in [*self._active]:
            state = attempt.poll()
            if state is None:
                continue
            self._active.remove(attempt)
            again = state.status in ("failed", "timed out") and attempt.retries_left > 0
            self._display.end(attempt, state, again)
            if again:
                self._waiting.append((attempt.run, attempt.retries_left - 1))

    def _stop_all(self, interruptions: list[int]) -> None:
        """Stop the processes gently, or at once after a second Ctrl-C; their work so far is kept."""
        self._display.stop(len(self._active))
        for attempt in self._active:
            attempt.stop("interrupted", self._config.grace_s)
        while self._active:
            if len(interruptions) > 1:
                for attempt in self._active:
                    attempt.stop("interrupted", grace_s=0)
            self._check_attempts()
            time.sleep(_TICK_S)


@contextmanager
def _count_interruptions() -> Iterator[list[int]]:
    """Record signals for the loop, so that none arrives between a process's start and its note."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        if number != signal.SIGHUP or not seen:  # both the terminal and the shell send SIGHUP
            seen.append(number)

    with handling(_SIGNALS, note):
        yield seen

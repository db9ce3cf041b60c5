"""The runner: retries, skips and output. Runs fail at once here, as an unrelated file is in their folders."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from utils.benchmark.attempt import Slot
from utils.benchmark.progress import ProgressDisplay
from utils.benchmark.runner import Runner, RunnerConfig, SuiteOptions, _count_interruptions, run_single
from utils.benchmark.state import RunState, lock_of_run, read_state, take_lock, write_state


@pytest.fixture
def runs(plan_of: Callable[..., Any]) -> Any:
    found = plan_of("tasks: {a: {}}\nseeds: [1, 2, 3]\n").runs
    for run in found:
        run.folder.mkdir(parents=True)
        (run.folder / "thesis.txt").write_text("mine")
    return found


def work(runs: Any, retries: int = 0, terminal: bool = False) -> str:
    said = io.StringIO()
    console = Console(file=said, force_terminal=terminal, width=300)
    display = ProgressDisplay(len(runs), console)
    assert Runner(runs, RunnerConfig([Slot(0), Slot(1)], None, retries, fork=False), display).work()
    display.close()
    return said.getvalue()


def test_a_failed_run_is_retried_as_often_as_configured(runs: Any) -> None:
    said = work(runs[:1], retries=1)
    lines = said.splitlines()
    assert [line.split(": ")[1].split("  ")[0] for line in lines] == ["started", "failed", "started", "failed"]
    assert "it is tried again" in lines[1]
    assert lines[3].startswith("[1/1] a-lora-s1: failed")
    assert "is not empty and not a run's folder" in lines[3]
    state = read_state(runs[0].folder)
    assert state is not None
    assert (state.status, state.attempts) == ("failed", 2)


def test_a_single_run_restores_the_terminal(
    plan_of: Callable[..., Any], runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=300)
    monkeypatch.setattr("utils.core.terminal.build_console", lambda: console)
    run_single(plan_of("tasks: {a: {}}\nseeds: [1, 2, 3]\n", only=("a-lora-s1",)), SuiteOptions())
    said = console.file.getvalue()
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")  # the cursor is shown again


def test_earlier_failures_wait_for_retry(runs: Any) -> None:
    write_state(runs[0].folder, RunState("timed out", runs[0].fingerprint, 1))
    assert work(runs[:1]) == "[1/1] a-lora-s1: timed out  timed out before; --retry tries it again\n"
    assert work(runs[:1], retries=1).count("started") == 1


def test_a_run_of_another_suite_is_left_alone_and_the_others_continue(runs: Any) -> None:
    lock = take_lock(lock_of_run(runs[0].folder))
    assert lock is not None
    said = work(runs)
    lock.close()
    assert "a-lora-s1: running  another suite is at work on it" in said
    assert said.count("failed") == 2
    assert "[3/3]" in said


def test_on_a_terminal_there_is_a_table(runs: Any) -> None:
    said = work(runs[:2], terminal=True)
    assert "at work" in said
    assert "2 runs: " in said
    assert "\x1b[" in said


def test_a_closed_terminal_stops_a_suite_once():
    """Terminal and shell both send the hangup: the second must not kill the runs at once."""
    with _count_interruptions() as seen:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
    assert seen == [signal.SIGHUP]

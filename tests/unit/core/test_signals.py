"""Signals: handled at once outside `deferred`, recorded inside it; a second one ends the process."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.core.signals import Interrupted, deferred, handling_signals, interruption_requested, raise_if_interrupted

ROOT = Path(__file__).parents[3]
TWICE = """
import os, signal, time
from utils.core.signals import deferred, interruption_requested, handling_signals
with handling_signals(), deferred():
    os.kill(os.getpid(), signal.SIGTERM)
    print("noted", interruption_requested(), flush=True)
    time.sleep({pause})
    os.kill(os.getpid(), signal.{second})
    print("still here", flush=True)
"""


def ask(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75), (signal.SIGXCPU, 75), (signal.SIGINT, 130)],
)
def test_outside_deferred_a_signal_acts_at_once(number, code):
    with pytest.raises(Interrupted, match=signal.Signals(number).name) as stopped, handling_signals():
        ask(number)
    assert stopped.value.exit_code == code
    assert not interruption_requested(), "no state is left"


def test_inside_deferred_a_signal_acts_at_the_next_check():
    reached = []
    with pytest.raises(Interrupted) as stopped, handling_signals(), deferred():  # noqa: PT012  the signal comes in the middle of it
        ask(signal.SIGINT)
        reached.append(interruption_requested())
        raise_if_interrupted()
    assert reached == [True]
    assert stopped.value.exit_code == 130


def test_an_unchecked_signal_acts_at_the_end_of_deferred():
    with pytest.raises(Interrupted), handling_signals():  # noqa: PT012  the signal comes in the middle of it
        with deferred():
            ask()
        raise AssertionError


def test_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with handling_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_to_another_process_exits_with_75():
    with pytest.raises(Interrupted, match="another process") as stopped:
        raise_if_interrupted()
    assert stopped.value.exit_code == 75


def run_twice(pause: float, second: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TWICE.format(pause=pause, second=second)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("second", ["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_the_process(second):
    done = run_twice(0, second)
    assert done.returncode == 75
    assert done.stdout == "noted True\n"
    assert f"{second} again: ended at once" in done.stderr


def test_under_a_launcher_an_echo_is_not_a_second_signal():
    """The scheduler signals every process, and torchrun passes the signal on."""
    done = run_twice(0, "SIGTERM", LOCAL_RANK="0", RANK="0")
    assert "still here" in done.stdout
    done = run_twice(2.2, "SIGTERM", LOCAL_RANK="0", RANK="0")
    assert "still here" not in done.stdout
    assert done.returncode == 75


TERMINAL = """
import pathlib, sys, time
from utils.cli.command_line import run_cli
from utils.cli.parser import build_parser
from utils.core.signals import deferred, interruption_requested, handling_signals, raise_if_interrupted

def main(arguments):
    with handling_signals(), deferred():
        while not interruption_requested():
            print("step", flush=True)
            time.sleep(0.02)
        for _ in range(3):
            print("a line to a terminal that is gone", flush=True)
            print("another", file=sys.stderr, flush=True)
        pathlib.Path(sys.argv[1]).write_text("saved")
        raise_if_interrupted()

sys.exit(run_cli(main, build_parser("x", ""), []))
"""


def test_a_closed_terminal_saves_the_run(tmp_path):
    """A real terminal is closed under the process, which receives SIGHUP and can no longer print."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", TERMINAL, str(tmp_path / "state")])
    seen = b""
    while b"step" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    assert (tmp_path / "state").read_text() == "saved"


def test_a_second_hangup_is_treated_as_an_echo():
    with pytest.raises(Interrupted), handling_signals(), deferred():  # noqa: PT012  the signal comes in the middle of it
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
            ask(number)
        assert interruption_requested()


def test_nohup_ignores_hangups():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handling_signals():
            ask(signal.SIGHUP)
        assert not interruption_requested()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)

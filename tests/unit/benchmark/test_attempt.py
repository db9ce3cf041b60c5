"""Attempts of a run: the folder, the process, the time limit, stopping, notes. The processes are real."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.benchmark.attempt import Attempt, Slot, list_slots, start_attempt
from utils.benchmark.state import RunState, is_locked, lock_of_run, read_state, take_lock, write_state

DEAF = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
ASLEEP = "import time; print('up', flush=True); time.sleep(60)"


@pytest.fixture
def run(plan_of: Callable[..., Any]) -> Any:
    return plan_of("tasks: {a: {}}\n").runs[0]


@pytest.fixture
def attempt_of(run: Any) -> Callable[..., Attempt]:
    """Return a function that makes an attempt of any Python code."""

    def make(code: str, timeout_s: float | None = None) -> Attempt:
        lock = take_lock(lock_of_run(run.folder))
        assert lock is not None
        state = RunState("running", run.fingerprint, attempts=0)
        write_state(run.folder, state)
        command = [sys.executable, "-c", code]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        if "'up'" in code:
            assert process.stdout is not None
            process.stdout.readline()
        return Attempt(run, Slot(0), process, state, time.monotonic(), timeout_s, lock)

    return make


def wait(attempt: Attempt, seconds: float = 20) -> RunState:
    deadline = time.monotonic() + seconds
    while (state := attempt.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if attempt.process.stdout is not None:
        attempt.process.stdout.close()
    return state


def test_a_hanging_process_is_stopped_after_its_time_limit(attempt_of: Callable[..., Attempt], run: Any) -> None:
    state = wait(attempt_of(ASLEEP, timeout_s=0.2))
    assert (state.status, state.attempts) == ("timed out", 1)
    assert state.note == "stopped after 0.2 s (timeout_minutes)"
    assert read_state(run.folder) == state


def test_a_process_that_ignores_ctrl_c_is_killed(attempt_of: Callable[..., Attempt]) -> None:
    attempt = attempt_of(DEAF)
    attempt.stop("interrupted", grace_s=0.3)
    started = time.monotonic()
    state = wait(attempt)
    assert time.monotonic() - started < 5
    assert (state.status, state.exit_code, state.attempts) == ("interrupted", -9, 0)


def test_child_processes_of_a_run_end_with_it(attempt_of: Callable[..., Attempt], tmp_path: Path) -> None:
    file = tmp_path / "pid"
    code = f"import subprocess; open({str(file)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))"
    wait(attempt_of(code))
    process = Path(f"/proc/{file.read_text()}")
    deadline = time.monotonic() + 5
    while process.exists() and (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("code", "status", "note"),
    [
        ("raise SystemExit(1)", "failed", ""),
        ("pass", "failed", "ended without a record of success"),
        ("raise SystemExit(75)", "interrupted", "the run itself was asked to stop; the same command continues it"),
        ("import os; os.kill(os.getpid(), 9)", "failed", "killed by SIGKILL; the machine may have run out of memory"),
        ("import os; os.kill(os.getpid(), 11)", "failed", "killed by SIGSEGV"),
    ],
)
def test_how_a_process_ended_is_noted(
    code: str, status: str, note: str, attempt_of: Callable[..., Attempt], run: Any
) -> None:
    state = wait(attempt_of(code))
    assert (state.status, state.note, state.attempts) == (status, note, int(status == "failed"))
    assert not is_locked(lock_of_run(run.folder))


def test_a_real_run_that_is_refused(run: Any) -> None:
    """An unrelated file is in the folder, so train.py ends before it imports anything heavy."""
    run.folder.mkdir(parents=True)
    (run.folder / "thesis.txt").write_text("mine")
    attempt = start_attempt(run, Slot(0), None)
    assert attempt is not None
    state = wait(attempt)
    assert (state.status, state.exit_code) == ("failed", 2)
    log = run.log.read_text()
    assert log.startswith("--- 20")
    assert f"train.py --config {run.config_file}" in log
    assert "is not empty and not a run's folder" in log
    assert (run.folder / "thesis.txt").read_text() == "mine"
    again = start_attempt(run, Slot(0), None)
    assert again is not None
    assert wait(again).attempts == 2
    assert run.log.read_text().count("--- 20") == 2


def test_a_run_locked_by_another_process_is_left_alone(run: Any) -> None:
    lock = take_lock(lock_of_run(run.folder))
    assert lock is not None
    assert start_attempt(run, Slot(0), None) is None
    assert not run.log.exists()
    lock.close()


def test_one_slot_for_each_visible_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-7")
    assert [slot.gpu for slot in list_slots(None)] == ["2", "GPU-7"]
    assert [slot.gpu for slot in list_slots(1)] == ["2"]


def test_more_jobs_than_gpus_share_them_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [slot.gpu for slot in list_slots(3)] == ["0", "1", "0"]
    assert "times are not those of a run alone" in caplog.text


def test_without_a_gpu_the_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert list_slots(None) == [Slot(0)]
    assert list_slots(3) == [Slot(0, None, 2), Slot(1, None, 2), Slot(2, None, 2)]


def test_the_environment_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = Slot(0, "3", 2).build_environment()
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert not {"WORLD_SIZE", "RANK"} & environment.keys()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert Slot(0, None, 2).build_environment()["OMP_NUM_THREADS"] == "5"

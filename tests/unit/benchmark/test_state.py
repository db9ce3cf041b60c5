"""Notes and locks: torn notes, suites that were killed, two suites and shards on one folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from utils.benchmark.state import (
    RunState,
    is_locked,
    lock_of_run,
    lock_suite,
    read_state,
    state_file,
    take_lock,
    write_state,
)
from utils.core.errors import UserError

ROOT = Path(__file__).parents[3]


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a.b-s1"
    state = RunState("timed out", "abc", 2, -9, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "stopped")
    write_state(folder, state)
    assert read_state(folder) == state
    assert state_file(folder) == tmp_path / "runs" / "a.b-s1.state.json"
    assert not folder.exists()
    assert read_state(tmp_path / "runs" / "other") is None


def test_a_torn_note_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state_file(tmp_path / "a").write_text('{"status": "runn')
    assert read_state(tmp_path / "a") is None
    assert "not JSON" in caplog.text


def test_running_is_true_only_while_somebody_holds_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    write_state(folder, RunState("running", "abc", 1))
    interrupted = read_state(folder)
    assert interrupted is not None
    assert (interrupted.status, interrupted.fingerprint, interrupted.attempts) == ("interrupted", "abc", 1)
    lock = take_lock(lock_of_run(folder))
    assert lock is not None
    running = read_state(folder)
    assert running is not None
    assert running.status == "running"
    lock.close()
    assert not is_locked(lock_of_run(folder))


def test_a_second_suite_and_the_same_shard_are_refused(tmp_path: Path) -> None:
    whole = lock_suite(tmp_path, None)
    with pytest.raises(UserError, match="is in use by another suite"):
        lock_suite(tmp_path, None)
    with pytest.raises(UserError, match="is in use by another suite"):
        lock_suite(tmp_path, (1, 2))
    for lock in whole:
        lock.close()
    first, second = lock_suite(tmp_path, (1, 2)), lock_suite(tmp_path, (2, 2))
    with pytest.raises(UserError, match=r"shard 1/2 is running already"):
        lock_suite(tmp_path, (1, 2))
    with pytest.raises(UserError, match="is in use by another suite"):
        lock_suite(tmp_path, None)
    for lock in (*first, *second):
        lock.close()
    for lock in lock_suite(tmp_path, None):
        lock.close()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from utils.benchmark.state import take_lock; "
    code += "lock = take_lock(Path(sys.argv[1])); print('up', flush=True); import time; time.sleep(60)"
    path = tmp_path / "x.lock"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert is_locked(path)
        assert take_lock(path) is None
        holder.kill()
        holder.wait()
    assert not is_locked(path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        lock_suite(tmp_path / "out", None)

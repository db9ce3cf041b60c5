"""A run's status and how train.py continues it; notes and locks: torn, killed, two suites on one folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from utils.benchmark.state import (
    RunState,
    RunStatus,
    choose_resume_flags,
    find_status,
    is_locked,
    lock_of_run,
    lock_suite,
    read_state,
    state_file,
    take_lock,
    write_state,
)
from utils.config.yaml_text import dump_yaml
from utils.core.errors import UserError
from utils.results.record import RunRecord, Status, write_record

ROOT = Path(__file__).parents[3]


def test_a_note_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a.b-s1"
    state = RunState("timed out", "abc", 2, -9, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z", "stopped")
    write_state(folder, state)
    assert read_state(folder) == state
    assert state_file(folder) == tmp_path / "runs" / "a.b-s1.state.json"
    assert not folder.exists()
    assert read_state(tmp_path / "runs" / "other") is None


def test_a_torn_note_is_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state_file(tmp_path / "a").write_text('{"status": "runn')
    assert read_state(tmp_path / "a") is None
    assert "not JSON" in caplog.text


def test_running_is_true_only_while_the_lock_is_held(tmp_path: Path) -> None:
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


def test_a_lock_is_released_when_its_process_ends(tmp_path: Path) -> None:
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


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        lock_suite(tmp_path / "out", None)


@pytest.fixture
def run(plan_of: Callable[..., Any]) -> Any:
    return plan_of("tasks: {a: {}}\n").runs[0]


def leave_record(run: Any, status: Status, fingerprint: str | None = None) -> None:
    record = RunRecord(status, "a", "SEQ_CLS", "lora", config_fingerprint=fingerprint or run.fingerprint)
    write_record(run.folder, record)


def leave_work(run: Any, config: dict[str, Any] | None = None, checkpoints: int = 1) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "run.yaml").write_text(dump_yaml(config or run.config))
    for step in range(1, checkpoints + 1):
        (run.folder / f"checkpoint-{step}").mkdir()
        (run.folder / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")


def leave_note(run: Any, status: RunStatus, fingerprint: str | None = None) -> None:
    write_state(run.folder, RunState(status, fingerprint or run.fingerprint))


def test_a_new_run(run: Any) -> None:
    assert (find_status(run), choose_resume_flags(run)) == ("to do", [])


def test_done_means_success_with_the_same_configuration(run: Any) -> None:
    leave_record(run, "success")
    assert find_status(run) == "done"
    leave_record(run, "success", "another")
    assert find_status(run) == "changed"
    leave_record(run, "failed")
    assert find_status(run) == "to do"
    leave_record(run, "success")
    leave_note(run, "failed")
    assert find_status(run) == "done", "the record is what counts"


def test_a_run_of_an_earlier_version_counts_as_done_despite_missing_keys(run: Any) -> None:
    leave_record(run, "success", "of fewer keys")
    older = {
        **run.config,
        "training": {key: each for key, each in run.config["training"].items() if key != "callbacks"},
    }
    leave_work(run, older, checkpoints=0)
    assert find_status(run) == "done"
    leave_work(run, {**older, "seed": 99}, checkpoints=0)
    assert find_status(run) == "changed"


def test_changed_extensions_are_another_run(run: Any) -> None:
    extended = replace(run, config={**run.config, "extensions": ["my_lab"]})
    leave_record(run, "success", "of other code")
    leave_work(run, extended.config)
    assert (find_status(extended), choose_resume_flags(extended)) == ("changed", ["--overwrite"])


@pytest.mark.parametrize("status", ["failed", "timed out", "interrupted"])
def test_a_note_applies_only_to_its_own_configuration(status: RunStatus, run: Any) -> None:
    leave_note(run, status)
    assert find_status(run) == status
    leave_note(run, status, "another")
    assert find_status(run) == "to do"


def test_a_locked_run_is_running(run: Any) -> None:
    leave_note(run, "running")
    assert find_status(run) == "interrupted"
    lock = take_lock(lock_of_run(run.folder))
    assert lock is not None
    assert find_status(run) == "running"
    lock.close()


@pytest.mark.parametrize(("status", "words"), [("interrupted", ["--resume"]), ("timed out", ["--resume"]),
                                               ("failed", ["--overwrite"])])  # fmt: skip
def test_a_stopped_run_continues_and_a_failed_one_starts_over(status: RunStatus, words: list[str], run: Any) -> None:
    leave_work(run)
    leave_note(run, status)
    assert choose_resume_flags(run) == words


def test_a_run_without_a_checkpoint_starts_over_in_its_folder(run: Any) -> None:
    leave_work(run, checkpoints=0)
    leave_note(run, "interrupted")
    assert choose_resume_flags(run) == []


def test_results_of_another_configuration_are_renamed(run: Any) -> None:
    changed = {**run.config, "seed": 7}
    leave_work(run, changed, checkpoints=0)
    assert choose_resume_flags(run) == [], "nothing was computed there"
    leave_record(run, "success", "another")
    (run.folder / "final_model").mkdir()
    assert choose_resume_flags(run) == ["--overwrite"]


def test_torn_files_are_renamed_with_their_folder(run: Any) -> None:
    leave_work(run)
    (run.folder / "results.json").write_text('{"version": 1, "sta')
    assert (find_status(run), choose_resume_flags(run)) == ("to do", ["--overwrite"])
    (run.folder / "results.json").unlink()
    (run.folder / "run.yaml").write_text("task_name: [")
    assert choose_resume_flags(run) == ["--overwrite"]


def test_the_chosen_options_open_the_folder(run: Any, tmp_path: Path) -> None:
    """The options are those that `open_run_folder` asks for."""
    from utils.run_config import load_run_config
    from utils.runs.opening import open_run_folder

    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(run.config))
    leave_work(run, {**run.config, "seed": 7})
    assert choose_resume_flags(run) == ["--overwrite"]
    open_run_folder(load_run_config(file), None, overwrite=True)
    assert list(tmp_path.glob("out/runs/*.old_*/checkpoint-1"))

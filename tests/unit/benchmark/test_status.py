"""How a planned run stands in its folder, and by which words train.py goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.benchmark.state import RunState, RunStatus, lock_of_run, take_lock, write_state
from utils.benchmark.status import choose_resume_flags, find_status
from utils.config.yaml_text import dump_yaml
from utils.results.record import RunRecord, Status, write_record


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


def test_done_means_success_of_this_very_configuration(run: Any) -> None:
    leave_record(run, "success")
    assert find_status(run) == "done"
    leave_record(run, "success", "another")
    assert find_status(run) == "changed"
    leave_record(run, "failed")
    assert find_status(run) == "to do"
    leave_record(run, "success")
    leave_note(run, "failed")
    assert find_status(run) == "done", "the record is what counts"


@pytest.mark.parametrize("status", ["failed", "timed out", "interrupted"])
def test_a_note_counts_for_its_own_configuration_only(status: RunStatus, run: Any) -> None:
    leave_note(run, status)
    assert find_status(run) == status
    leave_note(run, status, "another")
    assert find_status(run) == "to do"


def test_running_is_somebody_at_work(run: Any) -> None:
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


def test_a_run_without_a_checkpoint_starts_anew_in_its_folder(run: Any) -> None:
    leave_work(run, checkpoints=0)
    leave_note(run, "interrupted")
    assert choose_resume_flags(run) == []


def test_what_another_configuration_worked_out_is_renamed(run: Any) -> None:
    changed = {**run.config, "seed": 7}
    leave_work(run, changed, checkpoints=0)
    assert choose_resume_flags(run) == [], "nothing was worked out there"
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


def test_the_opened_folder_agrees(run: Any, tmp_path: Path) -> None:
    """The words are those that `open_run_folder` asks for."""
    from utils.run_config import load_run_config
    from utils.runs.opening import open_run_folder

    file = tmp_path / "run.yaml"
    file.write_text(dump_yaml(run.config))
    leave_work(run, {**run.config, "seed": 7})
    assert choose_resume_flags(run) == ["--overwrite"]
    open_run_folder(load_run_config(file), None, overwrite=True)
    assert list(tmp_path.glob("out/runs/*.old_*/checkpoint-1"))

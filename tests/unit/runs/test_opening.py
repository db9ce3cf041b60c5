"""A run's folder: new, foreign, finished, different, unfinished, locked; and what --resume and --overwrite do."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.config.run_config import RunConfig
from utils.core import registry
from utils.core.errors import UserError
from utils.run_config import load_run_config
from utils.runs.opening import open_run_folder

ROOT = Path(__file__).parents[3]
Load = Callable[..., RunConfig]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "run"


@pytest.fixture
def load(tmp_path: Path, out: Path) -> Load:
    """Return a function that loads a run's configuration with overrides."""
    file = tmp_path / "run.yaml"
    file.write_text(
        "task_type: SEQ_CLS\nmodel: {name_or_path: bert-base-uncased}\npeft: {method: lora}\n"
        f"dataset: {{name: glue, subset: rte}}\ntraining: {{output_dir: {out}}}\n"
    )
    return lambda *overrides: load_run_config(file, overrides)


def start(config: RunConfig) -> Path:
    folder = open_run_folder(config)
    folder.close()
    return folder.path


def add_checkpoint(path: Path, step: int, complete: bool = True) -> None:
    folder = path / f"checkpoint-{step}"
    folder.mkdir()
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        zipfile.ZipFile(folder / name, "w").close()
    if complete:
        (folder / "trainer_state.json").write_text("{}")


def finish(path: Path, status: str = "success") -> None:
    from utils.results.record import RunRecord, write_record

    write_record(path, RunRecord(status=status, task_name="run", task_type="SEQ_CLS", method="lora", seed=42))


def refuse(config: RunConfig, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_run_folder(config, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_closed_folder_can_be_opened_again_in_this_process(load: Load) -> None:
    config = load()
    with open_run_folder(config) as folder:
        assert "in use by another run" in refuse(config)
    with open_run_folder(config, overwrite=True) as again:
        assert again.path == folder.path


def test_a_folder_that_cannot_be_written_stays_free(load: Load, out: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "own_lab" / "schedules" / "own.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("from utils.config.section import Section\nbuild_schedule = print\nclass Config(Section): ...\n")
    config = load(f"extensions=[{tmp_path / 'own_lab'}]")
    registry.remove_folder(tmp_path / "own_lab")
    start(config)
    (out / "extensions" / "own_lab" / "schedules" / "own.py").write_text("# another one\n")
    (out / "extensions" / ".own_lab.partial").write_text("a file where a folder is made\n")
    with pytest.raises(OSError, match="partial") as caught:
        open_run_folder(config)
    (out / "extensions" / ".own_lab.partial").unlink()
    start(config)  # while the error, and with it the file of the lock, is still held
    assert caught.value.errno


def test_a_new_folder_holds_the_resolved_configuration(load: Load, out: Path) -> None:
    config = load()
    folder = open_run_folder(config)
    assert folder.path == out
    assert folder.resume_from is folder.finished is folder.changed is None
    assert yaml.safe_load((out / "run.yaml").read_text("utf-8")) == config.to_dict()
    assert load_run_config(out / "run.yaml").fingerprint() == config.fingerprint()
    assert folder.final_model == out / "final_model"


def test_an_empty_folder_or_one_with_logs_is_new(load: Load, out: Path) -> None:
    (out / "logs").mkdir(parents=True)
    assert open_run_folder(load()).finished is None


def test_a_foreign_folder_is_left_alone(load: Load, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("mine")
    message = refuse(load())
    assert "is not empty and not a run's folder (it holds thesis.txt)" in message
    assert "--overwrite (the folder is renamed, not deleted)" in message
    assert [each.name for each in out.iterdir()] == ["thesis.txt"]


def test_a_finished_run_of_the_same_configuration_is_already_done(load: Load) -> None:
    path = start(load())
    finish(path)
    before = (path / "run.yaml").stat().st_mtime_ns
    folder = open_run_folder(load("training.logging_steps=3", "results.language=zh"))
    assert folder.finished is not None
    assert folder.finished.status == "success"
    assert (path / "run.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_a_run_that_failed_before_a_checkpoint_starts_over(status: str, load: Load) -> None:
    path = start(load())
    finish(path, status)
    folder = open_run_folder(load())
    assert folder.finished is folder.resume_from is None


def test_another_configuration_is_refused_with_the_differences(load: Load) -> None:
    path = start(load())
    add_checkpoint(path, 5)
    text = (path / "run.yaml").read_text()
    message = refuse(load("seed=43", "peft.lora_r=4", "training.logging_steps=3"))
    assert "peft.lora_r was 8, is 4" in message
    assert "seed was 42, is 43" in message
    assert "logging_steps" not in message
    assert "--overwrite (the old folder is renamed, not deleted)" in message
    assert (path / "run.yaml").read_text() == text


def test_a_run_without_progress_may_be_started_with_other_settings(load: Load) -> None:
    path = start(load())
    finish(path, "failed")
    assert start(load("seed=43")) == path
    assert "seed: 43" in (path / "run.yaml").read_text()


def test_resuming_a_finished_run_reports_it_done(load: Load) -> None:
    path = start(load())
    add_checkpoint(path, 5)
    finish(path)
    assert open_run_folder(load(), "last").finished is not None


def test_a_finished_run_made_longer_keeps_its_results(load: Load) -> None:
    path = start(load())
    add_checkpoint(path, 5)
    finish(path)
    folder = open_run_folder(load("training.num_train_epochs=9"), "last")
    folder.close()
    assert folder.finished is None
    assert not (path / "results.json").exists()
    assert len(list(path.glob("earlier_results_*/results.json"))) == 1


def test_an_unfinished_run_requires_resume_or_overwrite(load: Load) -> None:
    path = start(load())
    add_checkpoint(path, 5)
    assert "holds an unfinished run of this configuration; --resume continues it" in refuse(load())


def test_an_unfinished_run_without_a_complete_checkpoint_starts_over(load: Load) -> None:
    path = start(load())
    add_checkpoint(path, 5, complete=False)
    assert open_run_folder(load()).resume_from is None


def test_resume_before_the_first_checkpoint_starts_at_the_beginning(load: Load) -> None:
    """A requeued job always passes --resume, however far the earlier one got."""
    start(load())
    folder = open_run_folder(load(), "last")
    assert folder.resume_from is folder.finished is None


def test_resume_takes_the_newest_complete_checkpoint(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    path = start(load())
    for step in (9, 10, 100):
        add_checkpoint(path, step, complete=step != 100)
    (path / "checkpoint-best").mkdir()
    folder = open_run_folder(load(), "last")
    assert folder.resume_from == str(path / "checkpoint-10")
    assert folder.changed is None
    assert "checkpoint-100 is skipped: trainer_state.json is missing" in caplog.text


@pytest.mark.parametrize("named", ["checkpoint-9", "whole path"])
def test_resume_takes_a_named_checkpoint(named: str, load: Load) -> None:
    path = start(load())
    add_checkpoint(path, 9)
    add_checkpoint(path, 10)
    folder = open_run_folder(load(), named if named.startswith("checkpoint") else str(path / "checkpoint-9"))
    assert folder.resume_from is not None
    assert Path(folder.resume_from) == path / "checkpoint-9"
    [aside] = path.glob("earlier_checkpoints_*")
    assert [each.name for each in aside.iterdir()] == ["checkpoint-10"], "a later --resume must not continue there"
    assert not (path / "checkpoint-10").exists()


def test_resume_with_a_missing_checkpoint_lists_the_existing_ones(load: Load) -> None:
    path = start(load())
    add_checkpoint(path, 8, complete=False)
    assert "has no complete checkpoint to resume from; leave --resume out to start" in refuse(load(), resume="last")
    add_checkpoint(path, 9)
    assert "--resume checkpoint-7: no such complete checkpoint" in refuse(load(), resume="checkpoint-7")
    assert "has: checkpoint-9" in refuse(load(), resume="checkpoint-7")


def test_resume_without_an_earlier_start_writes_nothing(load: Load, out: Path) -> None:
    assert "holds no run to resume; leave --resume out to start one" in refuse(load(), resume="last")
    assert not out.exists()


def test_resume_may_change_the_length_and_records_it(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    path = start(load("training.num_train_epochs=2"))
    add_checkpoint(path, 9)
    with caplog.at_level("INFO", logger="utils"):
        folder = open_run_folder(load("training.num_train_epochs=5"), "last")
    assert folder.changed == {"training.num_train_epochs": [2, 5]}
    assert "resuming with changed settings: training.num_train_epochs was 2, is 5" in caplog.text
    assert load_run_config(path / "run.yaml").arguments["num_train_epochs"] == 5


def test_resume_may_not_change_settings_that_affect_results(load: Load) -> None:
    path = start(load())
    add_checkpoint(path, 9)
    message = refuse(load("training.learning_rate=1", "training.num_train_epochs=5"), resume="last")
    assert "cannot be resumed with this one: training.learning_rate was None, is 1" in message
    assert "num_train_epochs" not in message


def test_overwrite_renames(load: Load, out: Path) -> None:
    path = start(load())
    add_checkpoint(path, 9)
    for seed in (43, 44):
        folder = open_run_folder(load(f"seed={seed}"), overwrite=True)
        folder.close()
        assert yaml.safe_load((out / "run.yaml").read_text())["seed"] == seed
        assert not (out / "checkpoint-9").exists()
    old = sorted(out.parent.glob("run.old_*"))
    assert len(old) == 2
    assert (old[0] / "checkpoint-9" / "trainer_state.json").is_file()


def test_overwrite_without_an_existing_run_is_a_new_run(load: Load, out: Path) -> None:
    open_run_folder(load(), overwrite=True)
    assert [each.name for each in out.parent.iterdir()] == ["run"]


def test_overwrite_renames_a_foreign_folder_too(load: Load, out: Path) -> None:
    out.mkdir(parents=True)
    (out / "thesis.txt").write_text("mine")
    open_run_folder(load(), overwrite=True)
    assert [each.read_text() for each in out.parent.glob("run.old_*/thesis.txt")] == ["mine"]


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_overwrite_never_renames_the_working_directory(
    name: str, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "holds the working directory" in refuse(load(f"training.output_dir={name}"), overwrite=True)


def test_resume_and_overwrite_exclude_each_other(load: Load) -> None:
    path = start(load())
    assert "give one of them" in refuse(load(), resume="last", overwrite=True)
    assert path.is_dir()


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": "last"}])
def test_a_folder_in_use_by_another_process_is_refused(options: dict[str, Any], load: Load, tmp_path: Path) -> None:
    path = start(load())
    add_checkpoint(path, 9)
    code = (
        "import sys\nfrom pathlib import Path\nfrom utils.runs.own_folder import lock_folder\n"
        "lock = lock_folder(Path(sys.argv[1]))\nprint('locked', flush=True)\nsys.stdin.read()\n"
    )
    words = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        assert "is in use by another run; wait for it" in refuse(load(), **options)
        assert (path / ".lock").read_text() == str(other.pid)
        assert (path / "checkpoint-9").is_dir()
        other.communicate("")
    assert open_run_folder(load(), "last").resume_from


def test_a_process_locks_its_folder(load: Load) -> None:
    folder = open_run_folder(load())
    assert "is in use by another run" in refuse(load())
    folder.close()


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_at_the_folders_path(inside: bool, load: Load, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    message = refuse(load(f"training.output_dir={file / 'run' if inside else file}"))
    assert ("cannot be written" if inside else "is a file; name a folder") in message
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_an_unwritable_folder_is_refused(load: Load, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "cannot be written: Permission denied" in refuse(load())
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("content", [b"a: [", b"\xff\xfe", b""])
def test_a_broken_run_yaml(content: bytes, load: Load) -> None:
    path = start(load())
    (path / "run.yaml").write_bytes(content)
    message = refuse(load())
    assert message.startswith(f"{path / 'run.yaml'}")
    assert message.endswith(", or use --overwrite or another training.output_dir")
    open_run_folder(load(), overwrite=True)


def test_home_is_expanded(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_run_folder(load("training.output_dir=~/run")).path == tmp_path / "run"


def test_all_processes_of_a_run_decide_alike(load: Load, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = start(load())
    finish(path)
    add_checkpoint(path, 3)
    monkeypatch.setenv("RANK", "1")
    assert open_run_folder(load()).finished is not None
    assert open_run_folder(load("seed=43")).finished is None
    assert open_run_folder(load(), "last").resume_from == str(path / "checkpoint-3")
    assert open_run_folder(load(), overwrite=True).finished is None
    assert [each.name for each in out.parent.iterdir()] == ["run"]


def test_a_checkpoint_of_another_run_is_refused(load: Load, tmp_path: Path) -> None:
    """Rows, order and optimizer of two runs would be mixed; one of the same configuration is allowed."""
    path = start(load())
    add_checkpoint(path, 9)
    elsewhere = start(load("seed=7", f"training.output_dir={tmp_path / 'elsewhere'}"))
    add_checkpoint(elsewhere, 4)
    assert "another configuration: seed was 7, is 42" in refuse(load(), resume=str(elsewhere / "checkpoint-4"))
    stray = tmp_path / "stray"
    stray.mkdir()
    add_checkpoint(stray, 4)
    assert "no run.yaml beside it" in refuse(load(), resume=str(stray / "checkpoint-4"))
    assert (path / "checkpoint-9").is_dir(), "nothing was set aside"
    twin = start(load(f"training.output_dir={tmp_path / 'twin'}"))
    add_checkpoint(twin, 4)
    folder = open_run_folder(load(), str(twin / "checkpoint-4"))
    assert folder.resume_from == str(twin / "checkpoint-4")
    assert not (path / "checkpoint-9").exists(), "a later --resume must not continue there"

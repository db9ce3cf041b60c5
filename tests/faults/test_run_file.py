"""What a folder from elsewhere, or truncation, can do to run.yaml and to the files that a run writes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.core.errors import UserError
from utils.core.replace_file import replace_file
from utils.runs.open_model import open_run
from utils.runs.opening import open_run_folder
from utils.runs.own_folder import require_no_links_out

KEYS = {"training__save_strategy": "steps", "training__save_steps": 2, "training__eval_strategy": "no",
        "training__report_to": "none", "training__load_best_model_at_end": False}  # fmt: skip


@pytest.fixture
def trained(kept, prepare_run, make_config) -> tuple[Any, Path]:
    """Return a run's configuration, and its folder with checkpoints of steps 2 and 4 of 5."""
    config = make_config("bert", **KEYS)
    folder = Path(config.training.output_dir)
    if not (kept / "run").exists():
        opened = open_run_folder(config)
        prepare_run(config=config).trainer.train()
        opened.close()
        shutil.rmtree(folder / "checkpoint-5", ignore_errors=True)
        shutil.copytree(folder, kept / "run")
    else:
        shutil.copytree(kept / "run", folder)
        for file in [folder / "run.yaml", *folder.glob("checkpoint-*/run_copy.yaml")]:
            file.write_text(config.to_yaml())
    return config, folder


def open_and_close(*args: Any, **kwargs: Any) -> Any:
    opened = open_run_folder(*args, **kwargs)
    opened.close()
    return opened


def cut_to(share: float) -> Callable[[Path], None]:
    def cut(file: Path) -> None:
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[: int(len(lines) * share)]))

    return cut


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1].rpartition(b":")[0] + b": [1, ")


@pytest.mark.parametrize("damage", [Path.unlink, cut_to(0.0), cut_to(0.4), cut_to(0.95), tear],
                         ids=["gone", "empty", "cut", "nearly whole", "torn"])  # fmt: skip
def test_a_missing_or_truncated_run_file_is_restored_from_a_checkpoint(damage, trained, caplog):
    """A file truncated at a line's end is valid YAML too, but lacks keys."""
    config, folder = trained
    damage(folder / "run.yaml")
    with caplog.at_level(logging.WARNING, "utils"):
        assert open_and_close(config, "last").resume_from == str(folder / "checkpoint-4")
    assert "checkpoint-4/run_copy.yaml is used instead" in caplog.text
    assert (folder / "run.yaml").read_text() == config.to_yaml()


def test_the_run_file_is_restored_as_it_was_not_as_now_configured(trained, make_config):
    """The copy decides what may change on resume; a finished run's file is restored too."""
    config, folder = trained
    (folder / "run.yaml").unlink()
    other = make_config("bert", **KEYS, seed=7)
    with pytest.raises(UserError, match="seed was 42, is 7"):
        open_run_folder(other, "last")
    assert (folder / "run.yaml").read_text() == config.to_yaml()


def test_the_exported_model_has_a_copy_and_a_missing_one_is_reported(trained):
    config, folder = trained
    for each in folder.glob("checkpoint-*"):  # as an older version wrote them
        (each / "run_copy.yaml").unlink()
        (each / "complete.json").unlink()
    (folder / "final_model").mkdir()
    shutil.copyfile(folder / "run.yaml", folder / "final_model" / "run.yaml")
    (folder / "final_model" / "config.json").write_text("{}")
    (folder / "final_model" / "labels.json").write_text('["0", "1"]')
    (folder / "run.yaml").unlink()
    assert open_run(folder).config.fingerprint() == config.fingerprint()
    assert open_and_close(config, "last").resume_from == str(folder / "checkpoint-4")
    shutil.rmtree(folder / "final_model")
    (folder / "run.yaml").write_text("model: {")
    with pytest.raises(UserError, match=r"nothing in the folder has a copy; write it again by .*--show"):
        open_run_folder(config, "last")


def test_the_run_file_is_replaced_atomically(trained):
    """A failure while writing keeps the old one."""
    config, folder = trained
    with pytest.raises(FileNotFoundError), replace_file(folder / "run.yaml"):
        pass  # no replacement was written
    assert (folder / "run.yaml").read_text() == config.to_yaml()
    before = (folder / "run.yaml").stat().st_ino
    open_and_close(config, "last")
    assert (folder / "run.yaml").stat().st_ino != before, "written to a temporary file and renamed, never in place"


WRITTEN = [".lock", "run.yaml", "labels.json", "results.json", "trainer_state.json", "final_model", "eval_step_4",
           ".checkpoint-6.partial", "logs/x", "checkpoint-4/extra", "best_model"]  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_no_symlink_leads_a_run_out_of_its_folder(name, trained, tmp_path):
    config, folder = trained
    target = tmp_path / "elsewhere" / "precious"
    target.parent.mkdir()
    target.write_text("mine")
    (folder / name).unlink(missing_ok=True)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(target if "." in name else target.parent)
    with pytest.raises(UserError, match=r"is a link to .*elsewhere.*, outside the folder"):
        open_run_folder(config, "last")
    assert target.read_text() == "mine"
    assert [each.name for each in target.parent.iterdir()] == ["precious"]
    if name == ".lock":
        with pytest.raises(UserError, match="is a link or not a regular file"):
            open_run_folder(config, overwrite=True)
        assert target.read_text() == "mine"


@pytest.mark.parametrize("make", [lambda lock, own: lock.hardlink_to(own), lambda lock, own: os.mkfifo(lock)])
def test_a_lock_file_that_links_elsewhere_is_not_written(make, trained, tmp_path):
    config, folder = trained
    own = tmp_path / "precious"
    own.write_text("mine")
    (folder / ".lock").unlink()
    make(folder / ".lock", own)
    with pytest.raises(UserError, match="not a regular file, so it is not written"):
        open_run_folder(config, "last")
    assert own.read_text() == "mine"


def test_symlinks_within_the_folder_and_a_symlinked_folder_work(trained, tmp_path):
    config, folder = trained
    (folder / "best_model").symlink_to("checkpoint-4")
    (folder / "loop").symlink_to("loop")
    require_no_links_out(folder)
    moved = folder.rename(tmp_path / "on another disk")
    folder.symlink_to(moved)
    assert open_and_close(config, "last").resume_from == str(folder / "checkpoint-4")

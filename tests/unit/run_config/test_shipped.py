"""Paths in the project's files resolve from any working directory; paths in a user's file are the user's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from utils.benchmark.search import inspect_suite
from utils.run_config import load_run_config
from utils.run_config.kinds import find_kind
from utils.run_config.load import inspect_run_config
from utils.trainer.launch import find_launcher_file

ROOT = Path(__file__).parents[3]
FILES = sorted(file for file in (ROOT / "configs").rglob("[!.]*.yaml") if find_kind(file) in ("run", "suite"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_shipped_file_is_valid_from_anywhere(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checks = inspect_suite(file)[0] if find_kind(file) == "suite" else inspect_run_config(file).checks
    assert [problem for check in checks for problem in check.problems] == []


def test_the_base_is_found_and_the_output_is_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_run_config(ROOT / "configs" / "quickstart.yaml")
    assert config.model.name_or_path == str(ROOT / "examples" / "quickstart" / "base")
    assert not Path(config.training.output_dir).is_absolute()


def test_the_working_directory_takes_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "examples" / "quickstart" / "base"
    mine.mkdir(parents=True)
    (mine / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert load_run_config(ROOT / "configs" / "quickstart.yaml").model.name_or_path == "examples/quickstart/base"


def test_paths_of_a_users_file_are_not_redirected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text((ROOT / "configs" / "quickstart.yaml").read_text())
    problems = inspect_run_config("run.yaml").problems
    assert {problem.path for problem in problems} == {"model.name_or_path", "dataset.path"}
    (tmp_path / "over.yaml").write_text(f"extends: {ROOT / 'configs' / 'quickstart.yaml'}\nseed: 3\n")
    assert load_run_config("over.yaml").seed == 3


def test_accelerates_deepspeed_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "configs/deepspeed/zero2.json")
    find_launcher_file()
    assert os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] == str(ROOT / "configs" / "deepspeed" / "zero2.json")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", "nowhere.json")
    find_launcher_file()
    assert os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] == "nowhere.json"

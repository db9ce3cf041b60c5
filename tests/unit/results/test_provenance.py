"""Provenance records what ran where, and leaves out what is unknown."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from utils.results.provenance import collect_provenance, find_git_state, write_provenance

START = datetime(2026, 1, 31, 12, 0, 0, 999, tzinfo=timezone(timedelta(hours=8)))


def test_facts(tmp_path: Path) -> None:
    facts = collect_provenance(
        started=START,
        ended=START + timedelta(seconds=90),
        data={"train": "abc"},
        commits={"model": "123", "dataset": None},
        command=["train.py", "--config", "a b.yaml", "model.token=hf_secret1"],
        project=tmp_path,
    )
    assert facts["started"] == "2026-01-31T04:00:00Z"
    assert facts["ended"] == "2026-01-31T04:01:30Z"
    assert facts["command"] == "train.py --config 'a b.yaml' 'model.token=***'"
    assert facts["data"] == {"train": "abc"}
    assert facts["commits"] == {"model": "123"}
    assert facts["versions"]["python"] == platform.python_version()
    assert facts["versions"]["transformers"].startswith("5.")
    assert "git" not in facts
    assert facts["hardware"]["cpu"]
    assert 0.1 < facts["hardware"]["ram_gb"] < 100_000
    assert facts["hardware"]["cpu_threads"] <= (os.cpu_count() or 0)
    written = json.loads(write_provenance(tmp_path, facts).read_text())
    assert written == facts
    assert platform.node() == "" or platform.node() not in json.dumps(facts["hardware"])


def test_a_running_run_has_no_end_time(tmp_path: Path) -> None:
    facts = collect_provenance(started=START, project=tmp_path)
    assert not {"ended", "data", "commits", "git"} & set(facts)


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_git_commit_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    assert find_git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    (tmp_path / "outputs").write_text("untracked")
    assert find_git_state(tmp_path) == {"commit": git(tmp_path, "rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert (find_git_state(tmp_path) or {})["dirty"] is True
    (tmp_path / "inner").mkdir()
    assert find_git_state(tmp_path / "inner") is None  # unpacked inside another project's checkout
    monkeypatch.setenv("PATH", "")
    assert find_git_state(tmp_path) is None


def test_torch_is_not_imported() -> None:
    code = (
        "import sys; from utils.results import columns, workbook, provenance, record, table;"
        "provenance.describe_hardware(); print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"

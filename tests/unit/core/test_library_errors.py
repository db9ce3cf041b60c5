"""Machine errors become one sentence in every command; errors raised by our own code keep their traceback."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.cli.command_line import run_cli
from utils.cli.parser import build_parser
from utils.core import locks
from utils.core.errors import DataError
from utils.core.library_errors import explain_library, is_of_library
from utils.core.locks import try_lock
from utils.trainer.launch import require_launched


def _gone(folder: Path) -> None:
    there = folder / "run"
    there.mkdir()
    there.rename(folder / "renamed")
    (there / "state.json").write_text("x")


def _circle(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    (folder / "a").read_text()


def _full(folder: Path) -> None:
    with open("/dev/full", "w") as file:  # noqa: PTH123  a device
        file.write("x" * 100_000)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda folder: (folder / ("n" * 300)).is_file(), "the file name is too long"),
        (_gone, "run/state.json: No such file or directory; it is not there; was a folder renamed"),
        (_circle, "its links form a loop"),
        (lambda folder: (folder / "x").write_text("") or (folder / "x" / "y").mkdir(), "is a file, not a folder"),
        (lambda folder: folder.read_text(), "it is a folder where a file was expected"),
        (lambda _: Path("~nobody_at_all/x").expanduser(), "the name of a user whom this machine does not know"),
        (lambda folder: (folder / "/".join(["d"] * 2000)).mkdir(parents=True), "more folders than can be created"),
        (_full, "the disk is full; free some space, then run the same command again"),
    ],
)
def test_machine_errors_become_one_sentence(act: Callable[[Path], Any], said: str, tmp_path: Path, capsys):
    def main(_: argparse.Namespace) -> dict[str, Any]:
        act(tmp_path)
        return {}

    assert run_cli(main, build_parser("x.py", "x"), []) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.startswith("error: ")


def test_a_missing_library_is_reported(monkeypatch, capsys):
    def main(_: argparse.Namespace) -> dict[str, Any]:
        require_launched()
        return {}

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert run_cli(main, build_parser("x.py", "x"), []) == 2
    assert capsys.readouterr().err.startswith(f"error: psutil is not installed for {sys.executable}: run `make setup`")


@pytest.mark.parametrize("error", [OSError("without a number"), KeyError("a")])
def test_other_errors_keep_their_traceback(error: Exception):
    def main(_: argparse.Namespace) -> dict[str, Any]:
        raise error

    with pytest.raises(type(error)):
        run_cli(main, build_parser("x.py", "x"), [])


def test_errors_are_attributed_to_library_or_project():
    from utils.cli import command_line

    def raise_in(file: str, line: str) -> Exception:
        with pytest.raises(Exception) as raised:  # noqa: PT011  of any kind
            exec(compile(line, file, "exec"), {"DataError": DataError})
        return raised.value

    ours = str(Path(command_line.__file__).with_name("any.py"))
    assert not is_of_library(raise_in(ours, "{}['a']"))
    assert is_of_library(raise_in("/x/transformers/any.py", "{}['a']"))
    assert not is_of_library(raise_in("/x/transformers/any.py", "raise DataError('ours')"))
    assert is_of_library(raise_in(ours, "raise Exception('what tokenizers raise')"))
    with pytest.raises(DataError, match="KeyError: 'a'"), explain_library(DataError):
        exec(compile("{}['a']", "/x/transformers/any.py", "exec"))


def test_a_disk_without_locks_is_used_with_a_warning(tmp_path: Path, monkeypatch, caplog):
    def refuse(*_: Any) -> None:
        raise OSError(37, os.strerror(37))  # ENOLCK: the error of a network disk without a lock service

    with (tmp_path / "a").open("w") as file, (tmp_path / "a").open("w") as other:
        assert try_lock(file)
        assert not try_lock(other)
        fcntl.flock(file, fcntl.LOCK_UN)
        monkeypatch.setattr(locks.fcntl, "flock", refuse)
        with caplog.at_level(logging.WARNING, "utils"):
            assert try_lock(other)
    assert "cannot be locked (No locks available)" in caplog.text

"""The command line of every command: overrides, GPUs, exit codes, and one JSON object."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from utils.cli.command_line import run_cli
from utils.cli.parser import add_overrides, build_parser, split_overrides
from utils.core.errors import CheckError, ConfigError, DataError, Problem, UserError

VALUED = frozenset({"--input_text", "--config"})


@pytest.mark.parametrize(
    ("words", "rest", "overrides"),
    [
        (["--config", "x.yaml", "a.b=1"], ["--config", "x.yaml"], ["a.b=1"]),
        (["a.b=1", "--config", "x.yaml"], ["--config", "x.yaml"], ["a.b=1"]),
        (["--config", "a=b.yaml"], ["--config", "a=b.yaml"], []),
        (["--input_text", "a=b", "seed=1"], ["--input_text", "a=b"], ["seed=1"]),
        (["--resume", "training.num_train_epochs=5"], ["--resume"], ["training.num_train_epochs=5"]),
        (["--config=a.yaml"], ["--config=a.yaml"], []),
        (["a.b=", "a=b=c", "a.b=x\ny"], [], ["a.b=", "a=b=c", "a.b=x\ny"]),
        (["configs/a=b.yaml", "./a=1", "=1", "1a=2", "a..b=1", "a.=1"],
         ["configs/a=b.yaml", "./a=1", "=1", "1a=2", "a..b=1", "a.=1"], []),
        (["--json", "seed=1"], ["--json"], ["seed=1"]),
    ],
)  # fmt: skip
def test_split_overrides(words: list[str], rest: list[str], overrides: list[str]) -> None:
    assert split_overrides(words, VALUED) == (rest, overrides)


def build(with_overrides: bool = True) -> argparse.ArgumentParser:
    parser = build_parser("command.py", "A command.")
    parser.add_argument("--input_text")
    parser.add_argument("--resume", nargs="?", const="last")
    parser.add_argument("files", nargs="*")
    if with_overrides:
        add_overrides(parser)
    return parser


def open_with(words: list[str], with_overrides: bool = True) -> argparse.Namespace:
    seen: list[argparse.Namespace] = []

    def main(arguments: argparse.Namespace) -> dict[str, Any]:
        seen.append(arguments)
        return {}

    assert run_cli(main, build(with_overrides), words) == 0
    return seen[0]


def test_the_parser_knows_which_options_have_values() -> None:
    arguments = open_with(["file.yaml", "--input_text", "a=b", "seed=1", "--resume", "training.num_train_epochs=5"])
    assert arguments.input_text == "a=b"
    assert arguments.resume == "last"
    assert arguments.overrides == ["seed=1", "training.num_train_epochs=5"]
    assert arguments.files == ["file.yaml"]


def test_a_command_without_overrides_keeps_key_value_words_as_arguments() -> None:
    assert open_with(["a=b"], with_overrides=False).files == ["a=b"]


@pytest.mark.parametrize("words", [["--unknown"], ["--input_text"], ["--input", "x"]])
def test_a_wrong_command_line_exits_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        open_with(words)
    assert ended.value.code == 2
    assert "usage: command.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError([Problem("wrong", "a.b", "f:2"), Problem("bad", "a.c", "f:1")]), 2,
         "error: f:1  a.c: bad\nerror: f:2  a.b: wrong\n"),
        (UserError("say more"), 2, "error: say more\n"),
        (DataError("no rows"), 2, "error: no rows\n"),
        (CheckError("not the same"), 1, "error: not the same\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
    ],
)  # fmt: skip
def test_exit_codes_of_commands(error: BaseException, code: int, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    def main(arguments: argparse.Namespace) -> dict[str, Any]:
        raise error

    assert run_cli(main, build(), []) == code
    captured = capfd.readouterr()
    assert captured.err == text
    assert captured.out == ""


def test_our_own_mistakes_are_not_hidden() -> None:
    def main(arguments: argparse.Namespace) -> dict[str, Any]:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        run_cli(main, build(), [])


def test_a_result_can_carry_the_exit_code() -> None:
    assert run_cli(lambda arguments: {"exit_code": 1}, build(), []) == 1


JSON_COMMAND = """
import os, sys
from pathlib import Path
from utils.cli.command_line import run_cli
from utils.cli.parser import build_parser
from utils.core.errors import ConfigError, Problem

def main(arguments):
    print("chatter")
    os.write(1, b"from a library\\n")
    if "exits" in sys.argv:
        sys.exit(0)
    if "closes" in sys.argv:
        sys.stdout.close()
    if "removes" in sys.argv:
        sys.stdout = None
    if "fails" in sys.argv:
        raise ConfigError([Problem("wrong", "a", "f:1")])
    return {"text": "\u4f60", "path": Path("x"), "exit_code": 1}

sys.exit(run_cli(main, build_parser("command.py", ""), ["--json"]))
"""


@pytest.mark.parametrize("fails", [False, True])
def test_json_is_the_only_thing_on_standard_output(fails: bool) -> None:
    words = [sys.executable, "-c", JSON_COMMAND, *(["fails"] if fails else [])]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3], encoding="utf-8")
    assert done.stdout.count("\n") == 1
    answer = json.loads(done.stdout)
    if fails:
        assert done.returncode == 2
        assert answer["status"] == "bad_input"
        assert answer["problems"] == [{"message": "wrong", "path": "a", "place": "f:1", "code": "conflict"}]
    else:
        assert done.returncode == 1
        assert answer == {"text": "\u4f60", "path": "x"}
    assert "chatter" in done.stderr
    assert "from a library" in done.stderr


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [("exits", 1, "called sys.exit"), ("closes", 1, "from a library"), ("removes", 1, "chatter")],
)
def test_code_that_exits_or_closes_standard_output_hides_no_result(kind: str, code: int, said: str) -> None:
    words = [sys.executable, "-c", JSON_COMMAND, kind]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3], encoding="utf-8")
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    answer = json.loads(done.stdout)
    assert answer == ({"status": "failed"} if kind == "exits" else {"text": "\u4f60", "path": "x"})


def test_an_error_of_an_extension_of_any_kind_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from utils.core import registry

    monkeypatch.setattr(registry, "_added", [tmp_path])
    code = compile("raise BaseException('boo')", str(tmp_path / "own.py"), "exec")
    assert run_cli(lambda arguments: exec(code), build(), []) == 2
    assert "own.py:1: BaseException: boo" in capsys.readouterr().err


def test_python_without_docstrings_is_rejected_before_transformers_fails() -> None:
    words = [sys.executable, "-OO", "-c", JSON_COMMAND]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 2
    assert "error: transformers needs its docstrings" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("redirected", "code", "said"),
    [
        (">/dev/full", 1, "error: the answer cannot be printed: No space left on device\n"),
        (">&-", 1, "from a library"),  # 1 is what the command itself ends with
        ("<&- >&- 2>&-", 1, ""),
    ],
)
def test_streams_that_are_full_or_closed(redirected: str, code: int, said: str) -> None:
    words = ["sh", "-c", f'"$0" -c "$1" {redirected}', sys.executable, JSON_COMMAND]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr

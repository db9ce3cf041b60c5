"""Problems are formatted as lines, in order; each kind of error has its exit code."""

from __future__ import annotations

import pytest

from utils.core import errors
from utils.core.errors import CheckError, ConfigError, DataError, ModelError, Problem


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (Problem("wrong", "peft.lora_r", "x.yaml:14"), "x.yaml:14  peft.lora_r: wrong"),
        (Problem("wrong", place="x.yaml"), "x.yaml  wrong"),
        (Problem("wrong", "seed"), "seed: wrong"),
        (Problem("wrong"), "wrong"),
    ],
)
def test_a_problem_is_one_line(problem: Problem, line: str) -> None:
    assert str(problem) == line


def test_problems_are_sorted_by_file_and_line() -> None:
    places = ["command line", "b.yaml:2", "a.yaml:10", "a.yaml", "a.yaml:9", "a.yaml:9", "C:/x.yaml:3"]
    error = ConfigError(Problem(str(number), place=place) for number, place in enumerate(places))
    assert [problem.place for problem in error.problems] == [
        "C:/x.yaml:3", "a.yaml:9", "a.yaml:9", "a.yaml:10", "b.yaml:2", "a.yaml", "command line",
    ]  # fmt: skip
    assert [problem.message for problem in error.problems][1:3] == ["4", "5"]
    assert str(error).splitlines()[0] == "C:/x.yaml:3  6"


def test_a_plain_message_is_a_problem_without_location() -> None:
    assert ConfigError("wrong").problems == [Problem("wrong")]


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigError("x"), 2), (DataError("x"), 2), (ModelError("x"), 2), (CheckError("x"), 1)]
)
def test_exit_codes(error: errors.LoraNsError, code: int) -> None:
    assert error.exit_code == code

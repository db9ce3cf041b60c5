"""validate_config.py on suites: what kind of file it is, numbered checks, mistakes of the runs with their lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import validate_config
from utils.cli.command_line import run_cli
from utils.run_config.kinds import find_kind


def validate(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = run_cli(validate_config.main, validate_config.build(), [str(path), *words])
    return code, capsys.readouterr().out


def test_a_good_suite(write_suite: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = write_suite("tasks: {a: {}, b: {peft.lora_r: 4}}\nseeds: [1, 2]\n")
    assert find_kind(path) == "suite"
    code, out = validate(path, capsys)
    assert code == 0
    assert out.splitlines()[:6] == [
        f"{path} (suite)",
        "  [1/5] reads as YAML: ok",
        "  [2/5] tasks, methods, grid and seeds: ok",
        "  [3/5] its 4 runs: ok",
        "  [4/5] every setting has an effect: ok",
        "  [5/5] this machine: ok",
    ]
    assert "a-lora-s1\na-lora-s2\nb-lora-s1\n" in validate(path, capsys, "--show")[1]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tasks: [\n", "  [1/1] reads as YAML: FAIL"),
        ("tasks: {a: 5}\n", "  [2/2] tasks, methods, grid and seeds: FAIL"),
        ("tasks: {a: {peft.lora_rr: 4}, b: {}}\n", "  [3/3] its 2 runs: FAIL"),
    ],
)
def test_each_step_may_fail(
    text: str, line: str, write_suite: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_suite(text)
    code, out = validate(path, capsys)
    assert code == 1
    if "reads" not in line:  # what is not YAML is of no kind
        assert f"{path} (suite)" in out
        assert line in out
    assert f"FAIL {path}" in out


def test_mistakes_and_idle_settings_of_the_runs(
    write_suite: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_suite("tasks:\n  a: {}\n  b: {peft.lora_rr: 4}\n")
    code, out = validate(path, capsys)
    assert code == 1
    assert f"{path}:11  peft.lora_rr: unknown key; did you mean lora_r? (in b-lora-s42)" in out
    idle = write_suite("tasks: {a: {training.eval_steps: 5}}\n")
    code, out = validate(idle, capsys)
    assert code == 0
    assert "warning:" in out
    assert "training.eval_steps: has no effect" in out
    assert validate(idle, capsys, "peft.lora_rr=3")[0] == 1
    assert validate(idle, capsys, "seed=3")[0] == 1


def test_a_million_runs_are_refused_at_once(
    write_suite: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    values = ", ".join(str(value) for value in range(1, 101))
    grid = "".join(f"  {key}: [{values}]\n" for key in ("peft.lora_r", "peft.lora_alpha", "training.max_steps"))
    code, out = validate(write_suite(f"tasks: {{a: {{}}}}\ngrid:\n{grid}"), capsys)
    assert code == 1
    assert "grid: tasks, methods, grid and seeds make 1,000,000 runs; at most 5,000 are planned" in out

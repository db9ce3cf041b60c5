"""Invalid files: one report names file, line, key and remedy of every mistake, and no ML library is imported.

The first lines of each file list what is expected: `# expect: LINE | KEY | REMEDY`. LINE is `-` for the whole file,
and `other.yaml:4` for a mistake in an extended file; KEY is empty where there is no key.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.commands.without_ml import run_without_ml

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "bad_configs"
FILES = sorted(FOLDER.glob("*.yaml"))


class Expectation(NamedTuple):
    place: str
    key: str
    remedy: str


def read_expectations(file: Path) -> list[Expectation]:
    found = []
    for line in re.findall(r"^# expect: (.*)$", file.read_text("utf-8", errors="replace"), re.MULTILINE):
        number, key, remedy = (part.strip() for part in line.split("|", 2))
        place = {"-": str(file)}.get(number, f"{file}:{number}" if number.isdigit() else str(file.parent / number))
        found.append(Expectation(place, key, remedy))
    return found


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, Any]]:
    """Run both commands on every file, in one process with the ML libraries blocked."""
    requests = [["train", ["--config", str(file)]] for file in FILES]
    requests += [["validate_config", [str(file)]] for file in FILES]
    found = run_without_ml(requests)
    names = [file.name for file in FILES]
    trained, validated = found[: len(FILES)], found[len(FILES) :]
    return {
        "train": dict(zip(names, trained, strict=True)),
        "validate_config": dict(zip(names, validated, strict=False)),
    }


def test_there_are_many_files_and_all_state_what_is_expected() -> None:
    assert len(FILES) >= 40
    assert [file.name for file in FILES if not read_expectations(file)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_exactly_the_expected_mistakes_are_reported(file: Path, answers: dict[str, Any]) -> None:
    for script in answers:
        check_answer(file, script, answers[script][file.name])
    lines = answers["train"][file.name]["err"].splitlines()
    problems = [line for line in lines if line.startswith("error: ")]
    assert len(problems) == len(read_expectations(file)), "\n".join(lines)


def check_answer(file: Path, script: str, answer: dict[str, Any]) -> None:
    text = answer["err"] if script == "train" else answer["out"]
    assert answer["code"] == (2 if script == "train" else 1)
    assert "Traceback" not in answer["err"] + answer["out"]
    expected = read_expectations(file)
    lines = text.splitlines()
    for expectation in expected:
        where = f"{expectation.place}  {expectation.key}: " if expectation.key else f"{expectation.place}  "
        naming = [line for line in lines if where in line]
        assert naming, f"{where!r} is not in:\n{text}"
        assert any(expectation.remedy in line for line in naming), f"{expectation.remedy!r} is not in:\n{text}"


def test_the_report_is_sorted_by_line(answers: dict[str, Any]) -> None:
    lines = re.findall(r"many_mistakes\.yaml:(\d+)", answers["train"]["many_mistakes.yaml"]["err"])
    assert [int(line) for line in lines] == sorted(map(int, lines))
    assert len(lines) == 4


def test_no_report_repeats_a_secret(answers: dict[str, Any]) -> None:
    secrets = [file for file in FILES if "literal_token" in file.name]
    assert len(secrets) == 3
    for file in secrets:
        for script in ("train", "validate_config"):
            answer = answers[script][file.name]
            assert "hf_notarealsecret" not in answer["out"] + answer["err"]


@pytest.mark.parametrize("command", ["train.py --config", "validate_config.py"])
def test_real_command_line(command: str) -> None:
    words = [*command.split(), str(FOLDER / "many_mistakes.yaml")]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == (2 if command.startswith("train") else 1)
    assert "peft.lora_rr: unknown key; did you mean lora_r?" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr

"""Files written for earlier frameworks: they validate unchanged, with one notice per older name.

The first lines of each file list what is expected: `# notice: KEY | PART OF THE SENTENCE`, `# warning: ...`, and
`# is: KEY = VALUE` for a value of the resolved file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands.without_ml import run_without_ml
from utils.config.run_config import flatten

ROOT = Path(__file__).parents[2]
FILES = sorted((Path(__file__).parent / "user_yaml").glob("*.yaml"))


def read_marks(file: Path, kind: str) -> list[str]:
    return re.findall(rf"^# {kind}: (.*)$", file.read_text("utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """Validate and show every file, in one process with the ML libraries blocked."""
    requests = [["validate_config", ["--show", str(file)]] for file in FILES]
    return {
        f"{script} {Path(words[-1]).name}": answer
        for (script, words), answer in zip(requests, run_without_ml(requests), strict=True)
    }


def test_there_are_several_files_and_all_state_what_is_expected() -> None:
    assert len(FILES) >= 8
    assert [file.name for file in FILES if not read_marks(file, "is")] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_files_validate_unchanged(file: Path, answers: dict[str, Any]) -> None:
    answer = answers[f"validate_config {file.name}"]
    assert answer["code"] == 0, answer["err"]
    assert "PASS 1  FAIL 0" in answer["err"]
    warnings = [line.strip() for line in answer["err"].splitlines() if line.strip().startswith("warning: ")]
    expected = read_marks(file, "warning")
    assert len(warnings) == len(expected)
    assert all(text in line for text, line in zip(expected, warnings, strict=True))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_older_name_is_reported_once_with_its_line(file: Path, answers: dict[str, Any]) -> None:
    notes = [line for line in answers[f"validate_config {file.name}"]["err"].splitlines() if "note: " in line]
    lines = file.read_text("utf-8").splitlines()
    for mark in read_marks(file, "notice"):
        key, part = (text.strip() for text in mark.split("|"))
        saying = [note for note in notes if f"  {key}: " in note]
        assert len(saying) == 1, "\n".join(notes)
        assert part in saying[0]
        number = int(re.search(rf"{file.name}:(\d+)  ", saying[0])[1])
        assert f"{key.rsplit('.', maxsplit=1)[-1]}:" in lines[number - 1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_older_settings_keep_their_meaning(file: Path, answers: dict[str, Any]) -> None:
    resolved = flatten(yaml.safe_load(answers[f"validate_config {file.name}"]["out"]))
    for mark in read_marks(file, "is"):
        key, value = mark.split(" = ")
        found = resolved[key]
        shown = {True: "true", False: "false", None: "null"}[found] if found in (True, False, None) else found
        assert str(shown) == value, key

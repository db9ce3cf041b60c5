"""Every linter or type check that is disabled in the code states a reason beside it."""

from __future__ import annotations

import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SWITCHED_OFF = re.compile(r"#\s*(?:noqa|type:\s*ignore|pragma:\s*no cover|fmt:\s*off)\b")
_CODES = r"(?:noqa: [A-Z]+\d+(?:, [A-Z]+\d+)*|type: ignore\[[\w, -]+\])"
WITH_REASON = re.compile(rf"# {_CODES}(?: -)? +(?:# )?\(?\w[^#]{{3,}}$")


def _list_files() -> list[Path]:
    folders = ("utils", "tests", "perf", "scripts", "examples")
    return [*ROOT.glob("*.py"), *(file for folder in folders for file in (ROOT / folder).rglob("*.py"))]


def test_disabled_checks_have_a_reason() -> None:
    found, bare = 0, []
    for file in _list_files():
        text = file.read_text("utf-8")
        if not SWITCHED_OFF.search(text):
            continue
        with file.open("rb") as stream:
            comments = [each for each in tokenize.tokenize(stream.readline) if each.type == tokenize.COMMENT]
        for comment in comments:
            if SWITCHED_OFF.search(comment.string):
                found += 1
                if not WITH_REASON.search(comment.string):
                    bare.append(f"{file.relative_to(ROOT)}:{comment.start[0]}: {comment.string}")
    assert found > 10
    assert not bare, "\n".join(bare)


@pytest.mark.parametrize(
    ("comment", "told"),
    [
        ("# noqa: E731", False),
        ("# type: ignore[misc]", False),
        ("# type: ignore", False),
        ("# noqa", False),
        ("# noqa: S607  found by PATH", True),
        ("# type: ignore[misc]  # a mixin", True),
        ("# noqa: S603 - what it runs is guarded", True),
    ],
)
def test_a_missing_reason_is_detected(comment: str, told: bool) -> None:
    assert bool(WITH_REASON.search(comment)) is told

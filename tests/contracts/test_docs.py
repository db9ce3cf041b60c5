"""What the pages say lies somewhere, lies there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
PATH = re.compile(r"(?<![\w/.-])(?:utils|tests|docs|configs|examples|perf|scripts)/[\w./-]*[\w/]")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_is_there(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # it tells of what was
    named = {match.rstrip(".") for match in PATH.findall(page.read_text("utf-8"))}
    gone = [path for path in sorted(named) if not (ROOT / path).exists() and not list(ROOT.glob(f"{path}.py"))]
    assert gone == []

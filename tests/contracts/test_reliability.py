"""Tests named in the docs exist, and every fault of reliability.md and row of pitfalls.md has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {page.name: page.read_text("utf-8") for page in ROOT.glob("docs/*.md")}
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
NAMED = [found for page in PAGES.values() for found in TEST.findall(page)]


def list_tests(file: Path) -> set[str]:
    return {each.name for each in ast.parse(file.read_text("utf-8")).body if isinstance(each, ast.FunctionDef)}


def test_every_test_named_exists():
    assert len(NAMED) > 25
    there = {file: list_tests(ROOT / file) for file in {file for file, _ in NAMED}}
    assert not [f"{file}::{name}" for file, name in NAMED if name and name not in there[file]]


@pytest.mark.parametrize(("page", "head"), [("reliability.md", "| fault"), ("pitfalls.md", "| what goes wrong")])
def test_every_row_has_a_test(page: str, head: str) -> None:
    rows = [line for line in PAGES[page].splitlines() if line.startswith("| ") and not line.startswith(head)]
    assert len(rows) > 20
    assert not [row for row in rows if "`tests/" not in row.rpartition(" | ")[2]]


def test_every_fault_test_is_documented():
    """Every test module in tests/faults is listed in reliability.md."""
    files = sorted((ROOT / "tests" / "faults").glob("test_*.py"))
    unnamed = [each.name for each in files if f"`tests/faults/{each.name}" not in PAGES["reliability.md"]]
    assert not unnamed

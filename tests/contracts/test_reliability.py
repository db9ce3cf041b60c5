"""Every test that docs/reliability.md names exists, and every fault has one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)


def list_tests(file: Path) -> set[str]:
    return {each.name for each in ast.parse(file.read_text("utf-8")).body if isinstance(each, ast.FunctionDef)}


def test_every_test_named_exists():
    assert len(NAMED) > 25
    missing = [f"{file}::{name}" for file, name in NAMED if name and name not in list_tests(ROOT / file)]
    assert not missing
    assert all((ROOT / file).is_file() for file, _ in NAMED)


def test_every_fault_has_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith(("| fault", "|---"))]
    assert len(rows) > 20
    assert not [row for row in rows if "`tests/" not in row.rpartition(" | ")[2]]


def test_every_test_of_a_fault_is_named():
    """What is shown is also promised."""
    files = sorted((ROOT / "tests" / "faults").glob("test_*.py"))
    unnamed = [each.name for each in files if f"tests/faults/{each.name}" not in {file for file, _ in NAMED}]
    assert not unnamed

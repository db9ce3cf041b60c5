"""All JSON files are read by utils/core/json_files.py, which handles damaged files.

Rows have their own reader in utils/data, which handles the same damage and reports the row.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_json_files_are_read_only_by_the_shared_reader():
    """Any other reader would have to handle the same damage again."""
    found = {
        f"{file.relative_to(ROOT)}"
        for file in (ROOT / "utils").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.loads", "json.load", "json.JSONDecoder")
    }
    own_text = {
        "utils/benchmark/dry_run.py",
        "utils/benchmark/warm_start.py",
        "utils/data/tokenizing.py",
        "utils/metrics/evaluate_metric.py",
    }
    """They read what they, or a library, just wrote in memory."""
    rows = {"utils/data/row_files.py", "utils/data/records.py"}
    assert found - own_text == rows | {"utils/core/json_files.py"}

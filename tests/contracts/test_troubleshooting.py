"""Every message that docs/troubleshooting.md quotes is one that the code can print."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _read_texts() -> str:
    """Return all string literals of the library; an f-string counts as its parts between braces."""
    files = [ast.parse(file.read_text("utf-8")) for file in sorted((ROOT / "utils").rglob("*.py"))]
    found = (node.value for file in files for node in ast.walk(file) if isinstance(node, ast.Constant))
    return "\n".join(re.sub(r"\{\w*\}", "\n", text) for text in found if isinstance(text, str))


def test_every_quoted_message_exists() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    quoted = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    assert len(quoted) > 25
    texts = _read_texts()
    parts = [(message, part.strip()) for message in quoted for part in message.split("...")]
    assert not [(message, part) for message, part in parts if part and part not in texts]

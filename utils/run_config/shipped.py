"""Relative paths in files that lie in the project's folder: they are found from any working directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from utils.config.document import Document

ROOT = Path(__file__).resolve().parents[2]


def find_shipped_paths(document: Document) -> Document:
    """Let a path start at the project's folder where the working directory has nothing of that name.

    Outputs are left alone: they go where the user stands.

    Args:
        document: Read from one file; changed where that lies in the project's folder, and given back.
    """
    if ROOT in Path(document.source).resolve().parents:
        document.data = _look_in(document.data)
    return document


def _look_in(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: each if key.endswith("_dir") else _look_in(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_look_in(each) for each in value]
    is_path = isinstance(value, str) and "/" in value and len(value) < 1000 and not value.startswith("/")
    return str(ROOT / value) if is_path and not os.path.exists(value) and os.path.exists(ROOT / value) else value

"""The folder for files that can be recreated."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return LORA_NS_CACHE, or ~/.cache/lora-ns if it is not set."""
    return Path(os.environ.get("LORA_NS_CACHE", "~/.cache/lora-ns")).expanduser()

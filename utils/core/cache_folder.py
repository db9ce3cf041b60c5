"""Where the project keeps what it can make again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Give the folder: LORA_NS_CACHE, else ~/.cache/lora-ns."""
    return Path(os.environ.get("LORA_NS_CACHE", "~/.cache/lora-ns")).expanduser()

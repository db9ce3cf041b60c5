"""The folders for files that can be recreated or fetched again: the project's, and the hub's."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return LORA_NS_CACHE, or ~/.cache/lora-ns if it is not set."""
    return Path(os.environ.get("LORA_NS_CACHE", "~/.cache/lora-ns")).expanduser()


def hub_home() -> Path:
    """Return the hub's folder, of cache and login, as huggingface_hub finds it: HF_HOME, or in XDG_CACHE_HOME."""
    folder = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(os.path.expandvars(folder)).expanduser()


def hub_cache() -> Path:
    """Return the hub's cache, as huggingface_hub finds it: HF_HUB_CACHE (or its older name), or in its folder."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(os.path.expandvars(named)).expanduser() if named else hub_home() / "hub"

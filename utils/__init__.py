"""The library that the commands open: its layers stand in CONTRIBUTING.md; `api` is what Python code may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from utils.core.project import VERSION

if TYPE_CHECKING:
    from utils.api import Run, load_config, load_run, train

__version__ = VERSION

__all__ = ["Run", "__version__", "load_config", "load_run", "train"]


def __getattr__(name: str) -> Any:
    """Import the API when it is asked for: the commands import parts of the library, and start at once."""
    if name in __all__:
        from utils import api

        return getattr(api, name)
    raise AttributeError(f"lora_ns has no {name}")

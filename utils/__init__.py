"""Fine-tune language models with few trained parameters, from one YAML file.

    from lora_ns import load_config, load_run, train

    run = train(load_config("my_run.yaml", {"peft.lora_r": 16}))
    print(run.record.metrics)
    load_run("outputs/my_run").predict(["How many is 2 + 3?"], max_new_tokens=64)

These names are the public API; CONTRIBUTING.md describes the layers below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from utils.core.project import VERSION

if TYPE_CHECKING:
    from utils.api import Run, load_config, load_run, train

__version__ = VERSION

__all__ = ["Run", "__version__", "load_config", "load_run", "train"]


def __getattr__(name: str) -> Any:
    """Import the API on first access: commands import only parts of the library, to start at once."""
    if name in __all__:
        from utils import api

        return getattr(api, name)
    raise AttributeError(f"lora_ns has no {name}")


def __dir__() -> list[str]:
    """Include the API, so that help() lists it."""
    return [*globals(), *__all__]

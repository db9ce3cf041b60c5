"""The embedded base model and its arithmetic dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples" / "quickstart"


@pytest.fixture(scope="session")
def quickstart_model() -> tuple[Any, Any]:
    """Return the base model of 0.79 M parameters and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(EXAMPLES / "base"), AutoTokenizer.from_pretrained(EXAMPLES / "base")


@pytest.fixture
def arithmetic() -> Path:
    """Return the folder of the embedded word problems."""
    return EXAMPLES / "arithmetic"


@pytest.fixture
def describe() -> Callable[..., tuple[Any, Any]]:
    """Return `describe("gsm8k", path=...)`, which describes a dataset as (set, section)."""

    def make(name: str, **settings: Any) -> tuple[Any, Any]:
        from utils.data.dataset import load_dataset_plugin

        room = load_dataset_plugin(name)
        section = room.Config(
            name=name, **{key: str(each) if key == "path" else each for key, each in settings.items()}
        )
        return room.describe_instructions(section), section

    return make


@pytest.fixture
def encoder(quickstart_model: tuple[Any, Any]) -> Any:
    """Return the encoder of the base model."""
    from utils.data.encoding import ExampleEncoder

    return ExampleEncoder(quickstart_model[1], 256)

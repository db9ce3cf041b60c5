"""Prepares sets of one's own by the `custom` room, with the tiny BERT's tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def prepare(load_tokenizer_of: Callable[[str], Any]) -> Callable[..., Any]:
    """Give a function that prepares rows: `prepare(folder, num_labels=3)`."""

    def run(path: Path | str, family: str = "bert", seed: int = 42, **keys: Any) -> Any:
        from utils.data.classification import prepare_classification
        from utils.data.custom import Config, describe_classification

        section = Config(path=str(path), **{"max_length": 32, **keys})
        return prepare_classification(describe_classification(section), section, load_tokenizer_of(family), seed)

    return run


@pytest.fixture
def prepare_glue(load_tokenizer_of: Callable[[str], Any]) -> Callable[..., Any]:
    """Give a function that prepares a GLUE task from a folder of files."""

    def run(path: Path | str, subset: str, seed: int = 42, reorder: Any = None, **keys: Any) -> Any:
        from utils.data.classification import prepare_classification
        from utils.data.glue import Config, describe_classification

        section = Config(path=str(path), subset=subset, **keys)
        arguments = (describe_classification(section), section, load_tokenizer_of("bert"), seed)
        return prepare_classification(*arguments, **({"reorder": reorder} if reorder else {}))

    return run

"""A small trained run in its folder, made once."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def train(make_config: Callable[..., Any]) -> Callable[..., tuple[Any, Path]]:
    """Return a function that runs train.py's main in this process and returns its result and the run folder."""

    def run(family: str = "bert", data: Path | None = None, **overrides: Any) -> tuple[Any, Path]:
        script = importlib.import_module("train")
        file = make_config.write(family, data, **overrides)
        answer = script.main(script.build().parse_args(["--config", str(file)]))
        return answer, Path(answer["output_dir"])

    return run

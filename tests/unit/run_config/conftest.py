"""Writes small run files for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from utils.config.scalars import dump_yaml

BASE: dict[str, Any] = {
    "task_type": "SEQ_CLS",
    "model": {"name_or_path": "bert-base-uncased"},
    "peft": {"method": "lora"},
    "dataset": {"name": "glue", "subset": "mrpc"},
    "training": {"output_dir": "out"},
}


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that writes a run file: `write_run(training={"optim": "sgd"}, seed=3)`; None drops a section."""

    def write(name: str = "run", bare: bool = False, **sections: Any) -> Path:
        settings = {} if bare else deepcopy(BASE)
        for key, value in sections.items():
            if value is None:
                settings.pop(key)
            elif isinstance(value, dict) and key in settings:
                settings[key] |= value
            else:
                settings[key] = value
        file = tmp_path / f"{name}.yaml"
        file.write_text(dump_yaml(settings), encoding="utf-8")
        return file

    return write

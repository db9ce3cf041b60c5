"""What the libraries refuse in the training section is reported before any data is read, at the key that causes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.config.run_config import RunConfig
from utils.config.yaml_text import dump_yaml
from utils.core.errors import ConfigError
from utils.run_config import load_run_config
from utils.tasks.rehearsal import rehearse


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., RunConfig]:
    """Return a function that reads a run with these keys under training:."""

    def build(**training: Any) -> RunConfig:
        sections = {
            "task_type": "CAUSAL_LM",
            "model": {"name_or_path": "a/b"},
            "dataset": {"name": "gsm8k"},
            "training": {"use_cpu": True, "output_dir": str(tmp_path / "out"), **training},
        }
        (tmp_path / "run.yaml").write_text(dump_yaml(sections), "utf-8")
        return load_run_config(tmp_path / "run.yaml")

    return build


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "training.lr_scheduler_kwargs: cosine_with_min_lr refuses"),
        ({"lr_scheduler_kwargs": {"foo": 1}}, "training.lr_scheduler_kwargs: linear refuses"),
        ({"optim": "sgd", "optim_args": "momentum=fast"}, "training.optim_args: sgd refuses"),
        ({"accelerator_config": {"foo": 1}}, "training: AcceleratorConfig"),
        (
            {"torch_compile": True, "torch_compile_backend": "foo"},
            "training.torch_compile_backend: accelerate refuses these settings: 'FOO' is not a valid DynamoBackend",
        ),
        ({"debug": "foo"}, "training.debug: foo is not a valid DebugOption"),
        (
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"foo": 1}},
            "training.gradient_checkpointing_kwargs: torch refuses",
        ),
    ],
)
def test_settings_the_libraries_refuse(training: dict[str, Any], said: str, read: Callable[..., RunConfig]) -> None:
    config = read(**training)
    with pytest.raises(ConfigError) as caught, config.locating_errors():
        rehearse(config)
    assert re.match(rf"\S+run.yaml:\d+  {re.escape(said)}", str(caught.value))


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}, "warmup_steps": 0.1},
        {"optim": "adafactor"},
        {"optim": "sgd", "optim_args": "momentum=0.9"},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"bf16": True},
        {"fp16": True},
    ],
)
def test_settings_the_libraries_accept(training: dict[str, Any], read: Callable[..., RunConfig]) -> None:
    rehearse(read(**training))

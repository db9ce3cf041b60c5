"""Small trained runs in their folders, and the command's library functions."""

from __future__ import annotations

import hashlib
import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

QUICKSTART = Path(__file__).parents[3] / "examples" / "quickstart"
SETS = [
    {"name": "gsm8k", "split": "test[:24]", "label": "test"},
    {"name": "gsm8k", "split": "test_unseen[:16]", "label": "unseen"},
]


@pytest.fixture(autouse=True)
def _record_info_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Let caplog record informational log lines too."""
    caplog.set_level(logging.INFO, "utils")


@pytest.fixture
def train_config() -> Callable[[Any], Path]:
    """Return a function that trains a configuration in this process and returns the run's folder."""

    def train(config: Any) -> Path:
        script = importlib.import_module("train")
        return Path(script.main(script.build().parse_args(["--config", config.source]))["output_dir"])

    return train


@pytest.fixture
def sft_run(make_sft: Callable[..., Any], train_config: Callable[[Any], Path]) -> Path:
    """Train the embedded base on a few sums and score two small sets."""
    return train_config(
        make_sft(
            evaluation={"sets": SETS},
            generation={"max_new_tokens": 24, "batch_size": 12},
            training__save_strategy="steps",
            training__save_steps=3,
            training__max_steps=6,
        )
    )


@pytest.fixture
def arithmetic() -> Path:
    """Return the folder of the embedded word problems."""
    return QUICKSTART / "arithmetic"


@pytest.fixture
def base() -> Path:
    """Return the folder of the embedded base model."""
    return QUICKSTART / "base"


@pytest.fixture
def score() -> Callable[..., dict[str, Any]]:
    """Return a function that evaluates as the command does and returns the entries by label."""

    def run(
        open_subject: Callable[..., Any], name: object, *overrides: str, sets: Sequence[str] = (), **rest: Any
    ) -> Any:
        from utils.evaluate_model.evaluation import evaluate

        subject = open_subject(str(name), list(sets), list(overrides), rest.get("output_dir"))
        return {entry.label: entry for entry in evaluate(subject)}

    return run


@pytest.fixture
def fingerprint() -> Callable[[Path], dict[str, str]]:
    """Return a function that hashes a run's own files and weights, without its evaluations."""

    def read(run: Path) -> dict[str, str]:
        files = [
            file for file in run.rglob("*") if file.is_file() and not file.relative_to(run).parts[0].startswith("eval_")
        ]
        return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    return read

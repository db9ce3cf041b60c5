"""Benchmark suites on the embedded base, small enough for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SMALL = f"""run:
  model.name_or_path: {ROOT}/examples/quickstart/base
  dataset: {{path: {ROOT}/examples/quickstart/acceptability, max_train_samples: 48, max_eval_samples: 32}}
  training: {{num_train_epochs: 1, use_cpu: true, report_to: none}}
  results.formats: []
"""


@pytest.fixture
def write_suite(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a suite over the quickstart's run; its results go to `out` beside the file."""

    def write(text: str, head: str = SMALL, base: Any = ROOT / "configs" / "quickstart.yaml") -> Path:
        path = tmp_path / "s.yaml"
        start = f"suite: s\noutput_dir: {tmp_path / 'out'}\n" + (f"base: {base}\n" if base else "")
        path.write_text(start + head + text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def plan_of(write_suite: Callable[..., Path]) -> Callable[..., Any]:
    """Return a function that writes a suite and plans it; keyword arguments are the command line's selection."""
    from utils.benchmark.choices import Choices
    from utils.benchmark.search import plan_suite
    from utils.benchmark.suite_reader import read_suite

    def plan(text: str, head: str = SMALL, base: Any = ROOT / "configs" / "quickstart.yaml", **choices: Any) -> Any:
        return plan_suite(read_suite(write_suite(text, head, base)), Choices(**choices))

    return plan

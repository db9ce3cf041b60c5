"""The results of a user's own metric are checked, and its exceptions are reported in one sentence with their line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from utils.core import registry
from utils.core.errors import UserError
from utils.metrics.metric import load_metric

SOURCE = """from utils.metrics.metric import Metric

def score_rows(texts, references):
    {body}

METRIC = Metric("{name}", "generation", 0.0, 1.0, True, lambda p, r: 0.0, "mine", score_rows)
"""
BODIES = {
    "too_few": ("return [1.0]", "too_few gave scores of shape (1,) for 2 texts"),
    "a_table": ("return [[1.0], [0.5]]", "a_table gave scores of shape (2, 1) for 2 texts"),
    "endless": ("return [1.0, float('inf')]", "endless gave an infinite score"),
    "of_texts": ("return ['good', 'bad']", "of_texts gave list, not a list of numbers"),
    "nothing": ("return None", "nothing gave scores of shape ()"),
}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "scores" / "metrics").mkdir(parents=True)
    for name, body in {**{name: body for name, (body, _) in BODIES.items()}, "raises": "return 1 / 0"}.items():
        (tmp_path / "scores" / "metrics" / f"{name}.py").write_text(SOURCE.format(name=name, body=body))
    registry.add_folder(tmp_path / "scores")
    yield tmp_path / "scores"
    registry.remove_folder(tmp_path / "scores")


@pytest.mark.parametrize("name", BODIES)
def test_invalid_scores_are_refused(name: str, lab: Path) -> None:
    score_rows = load_metric(name).score_rows
    assert score_rows is not None
    with pytest.raises(UserError) as refused:
        score_rows(["x", "y"], ["x", "y"])
    assert BODIES[name][1] in str(refused.value)


def test_exceptions_are_reported_with_their_line(lab: Path) -> None:
    score_rows = load_metric("raises").score_rows
    assert score_rows is not None
    with pytest.raises(ZeroDivisionError) as raised:
        score_rows(["x"], ["x"])
    expected = f"{lab}/metrics/raises.py:4: ZeroDivisionError: division by zero"
    assert str(registry.explain_added(raised.value)) == expected
    with pytest.raises(ZeroDivisionError) as of_others:
        print(1 / 0)
    assert registry.explain_added(of_others.value) is None

"""The table: scores x100 with intervals, partial ones marked, in both languages and on narrow terminals."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from utils.evaluate_model.evaluation import render_scores
from utils.evaluate_model.folders import Entry

RESULT = {
    "metrics": {"em_strict": 0.5, "em_flexible": 0.625},
    "interval": {"em_strict": [0.25, 0.75], "em_flexible": [0.4, 0.8]},
    "n": 8,
    "num_total": 20,
    "partial": True,
    "protocol": "gsm8k zero-shot",
}


def _render(*entries, language="en", width=80):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(render_scores("outputs/run (final_model)", entries, language))
    return [line.split() for line in capture.get().splitlines() if line.strip()]


def _entry(**changes):
    return Entry("test", Path("outputs/run/eval_test"), {**RESULT, **changes}, ("em_strict", "em_flexible"), False)


def test_scores_are_shown_times_a_hundred():
    lines = _render(_entry())
    assert lines[0] == ["outputs/run", "(final_model)"]
    assert lines[1] == ["set", "metric", "score", "x100", "95%", "interval", "rows"]
    assert lines[3] == ["test", "em_strict", "50.00", "25.00", "..", "75.00", "8", "/", "20", "(partial)"]
    assert lines[4] == ["em_flexible", "62.50", "40.00", "..", "80.00"]
    assert lines[5] == ["test:", "gsm8k", "zero-shot;", "outputs/run/eval_test"]


def test_baselines_have_a_column_where_there_are_any():
    whole = _entry(partial=False, n=20, baseline={"em_strict": 0.1})
    assert _render(whole)[3] == ["test", "em_strict", "50.00", "25.00", "..", "75.00", "10.00", "20"]
    assert "\u57fa\u7ebf" in _render(whole, language="zh")[1]


@pytest.mark.parametrize("width", [80, 60])
def test_numbers_are_whole_on_a_narrow_terminal(width):
    words = [word for line in _render(_entry(), width=width) for word in line]
    assert {"50.00", "62.50", "em_flexible"} <= set(words)

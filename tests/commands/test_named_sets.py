"""A named file carries all its reading options; what is scored is shown first, the first answers afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.in_process import command
from tests.model_server import BASE


@pytest.mark.parametrize(
    ("answer", "headline"),
    [("7 apples", "exact_match"), ("She has 7 apples, and gives 2 away", "token_f1"),
     ("def add(a, b):\n    return a + b  # and so on\n" * 9, "rouge_l")],
)  # fmt: skip
def test_the_headline_metric_follows_the_length_of_answers(
    answer: str, headline: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"task": f"Tom has {number} apples.", "solution": answer} for number in range(5)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    caplog.set_level("INFO")
    keys = "prompt_template='{task} He'&answer_column=solution&max_samples=3&label=mine"
    given = command("evaluate_model", "--model", BASE, "--set", f"{file}?{keys}", "--output_dir", tmp_path / "out",
                    "--show", "2", "generation.max_new_tokens=4")  # fmt: skip
    result = given["sets"]["mine"]
    assert next(iter(result["metrics"])) == headline
    assert sorted(result["metrics"]) == ["exact_match", "rouge_l", "token_f1"]
    assert "mine: 3 of 5 rows, scored by" in caplog.text
    assert "the first prompt:\n  <bos>Tom has 0 apples. He" in caplog.text
    shown = capsys.readouterr().out
    written = [json.loads(line) for line in (tmp_path / "out/mine/predictions.jsonl").read_text().splitlines()]
    assert shown.count("answered") == shown.count("expected") == 2
    assert f"answered {written[1]['prediction'].strip()}" in shown
    assert "asked    <bos>Tom has 1 apples. He" in shown
    assert "Tom has 2 apples" not in shown

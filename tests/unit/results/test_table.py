"""The table at the end of a run is readable on any terminal."""

from __future__ import annotations

import dataclasses
import io
import shlex

import pytest
from rich.cells import cell_len
from rich.console import Console

from utils.results.record import BestMetric, PeakMemory, RunRecord
from utils.results.table import render_result_table

COMMANDS = [
    "python inference.py --run outputs/cola_qwen --input_text 'The cat sat on  the mat and did not sleep.'",
    "python train.py --config configs/a.yaml",
]


def show(record: RunRecord, language: str = "en", width: int = 80, commands: list[str] = COMMANDS) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(render_result_table(record, language, commands))
    return file.getvalue()


def test_content_of_the_table(record: RunRecord) -> None:
    shown = show(record)
    text = " ".join(shown.split())
    for words in (
        "cola_qwen (SEQ_CLS)",
        "61.00 (95% interval 57.10 .. 64.80)",
        "matthews_correlation x100, last 60.00",
        "majority baseline 0.00",
        "accuracy x100 83.00",
        "2,182,144 / 1,545,896,448 (0.14 %)",
        "cuda: 1.31 GB allocated, 1.60 GB reserved,",
        "812.0", "95.1", "5,210.0", "em_strict x100 42.00", "one row is empty",
    ):  # fmt: skip
        assert words in text
    assert "\x1b" not in shown


def test_a_cpu_is_named_and_missing_values_have_no_line() -> None:
    record = RunRecord("failed", "t", "SEQ_CLS", "none", memory=PeakMemory("cpu", peak_rss_gb=0.5))
    text = show(record, commands=[])
    assert "cpu: 0.50 GB RAM" in text
    assert "failed" in text
    for label in ("accuracy", "trainable", "tokens", "Next", "warnings", "baseline"):
        assert label not in text


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_fits_the_width(record: RunRecord, language: str, width: int) -> None:
    lines = show(record, language, width).splitlines()
    assert max(map(cell_len, lines)) <= width


def test_commands_can_be_copied(record: RunRecord) -> None:
    tail = show(record).split("Next:\n")[1]
    assert tail.count("\\\n") == 1
    copied = [shlex.split(line) for line in tail.replace("\\\n", " ").splitlines()]
    assert copied == [shlex.split(command) for command in COMMANDS]


def test_user_texts_are_not_parsed_as_markup(record: RunRecord) -> None:
    assert "[red]x[/red] (SEQ_CLS)" in show(dataclasses.replace(record, task_name="[red]x[/red]"))


def test_ascii_terminals(record: RunRecord) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file, width=80).print(render_result_table(record, "en", COMMANDS))
    file.flush()


def test_errors_are_not_multiplied_by_100() -> None:
    record = RunRecord(
        "success", "t", "SEQ_CLS", "none", best_metric=BestMetric("mse", 0.25), interval={"mse": [0.2, 0.3]}
    )
    assert "0.2500 (95% interval 0.2000 .. 0.3000)" in show(record)

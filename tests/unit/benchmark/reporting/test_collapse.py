"""Which runs have collapsed, the means with and without them, and one row per run."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from utils.benchmark.aggregate import summarize
from utils.benchmark.collapse import find_collapsed, measure_without
from utils.benchmark.outcomes import collect_outcomes
from utils.benchmark.reports import write_reports

BASELINE, FAR = "at the majority baseline", "far below the other seeds"


def write(folder: Any) -> dict[str, Path]:
    suite, outcomes = folder.facts(), collect_outcomes(folder.runs)
    return write_reports(folder.path, suite, summarize(suite, outcomes), outcomes)


@pytest.mark.parametrize(
    ("task", "scores", "collapsed"),
    [
        ("cola", [0.60, 0.61, 0.0], {3: BASELINE}),
        ("cola", [0.60, 0.61, -0.02], {3: BASELINE}),
        ("rte", [0.66, 0.527], {2: BASELINE}),
        ("cola", [0.60, 0.61, 0.30], {3: FAR}),
        ("cola", [0.60, 0.61, 0.57], {}),  # not five points below
        ("cola", [0.60, 0.20], {}),  # of two runs it is unknown which one is right
        ("cola", [0.70, 0.60, 0.50, 0.40], {}),  # they always differ that much
        ("stsb", [0.80, 0.81, 0.01], {3: FAR}),  # it has no baseline
    ],
)
def test_collapsed_runs_are_detected(task: str, scores: list[float], collapsed: dict[int, str], folder: Any) -> None:
    for seed, score in enumerate(scores, start=1):
        folder.finish(folder.plan(task, "lora", seed), score)
    (row,) = summarize(folder.facts(), collect_outcomes(folder.runs)).rows
    assert find_collapsed(row) == collapsed
    left = [score for seed, score in enumerate(scores, start=1) if seed not in collapsed]
    without = measure_without(row, find_collapsed(row))
    assert without is not None
    assert without.mean == pytest.approx(sum(left) / len(left))


def test_means_are_given_with_and_without_collapsed_runs(folder: Any) -> None:
    for seed, score in ((1, 0.6), (2, 0.62), (3, 0.0)):
        folder.finish(folder.plan("cola", "lora", seed), score)
    paths = write(folder)
    text = paths["md"].read_text()
    assert "cola-lora-s3 (at the majority baseline)" in text
    assert "40.67 over all 3 seeds, 61.00 without the collapsed (2 left)" in text
    (row,) = json.loads(paths["json"].read_text())["rows"]
    assert [run["collapsed"] for run in row["runs"]] == [None, None, BASELINE]
    assert row["without_collapsed"]["mean"] == pytest.approx(0.61)
    assert row["figures"]["best"]["mean"] == pytest.approx(0.4066667)


def test_every_run_has_a_row_with_its_settings(folder: Any) -> None:
    record = folder.finish(folder.plan("rte", "lora", 1, training={"learning_rate": 1e-3, "optim": "x"}), 0.7)
    folder.fail(folder.plan("rte", "full", 1, training={"learning_rate": 1e-5, "optim": "x"}), note="=1+1\nkilled")
    first, second = csv.DictReader(write(folder)["runs"].read_text().splitlines())
    assert first["run"] == "rte-lora-s1"
    assert float(first["score"]) == 0.7
    assert (int(first["trainable_params"]), first["memory_is"]) == (record.params.trainable, "vram")
    assert float(first["train_runtime_s"]) == record.time.train_runtime_s
    assert float(first["metrics.f1"]) == record.metrics["f1"]
    varied = {key for key in first if "." in key and not key.startswith("metrics.")}
    assert varied == {"peft.method", "training.learning_rate"}
    assert (first["training.learning_rate"], second["training.learning_rate"]) == ("0.001", "1e-05")
    assert (second["status"], second["score"], second["note"]) == ("failed", "", "'=1+1 killed")

"""Evaluation rows that a run was trained on are reported, whatever prompt is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from utils.evaluate_model.evaluated_model import open_run

NUM_ROWS, NUM_TRAINED = 12, 5
PROMPT = "{context} {input} ->"
SETS = ["{name: longbench, subset: trec, label: mine, max_new_tokens: 2}"]


def write_rows(folder: Path, word: str) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [
        {"input": f"what {word} {number}?", "context": f"about {number}", "answers": ["food"], "dataset": "trec",
         "all_classes": ["food"], "length": 2, "_id": str(number)}
        for number in range(NUM_ROWS)
    ]  # fmt: skip
    (folder / "trec.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows", "eats")


@pytest.fixture
def run(make_sft: Any, train_config: Any, rows: Path) -> Path:
    """Train on some of twelve rows."""
    dataset = {
        "name": "longbench",
        "path": str(rows),
        "subsets": ["trec"],
        "validation_size": 2,
        "prompt_template": PROMPT,
    }
    dataset["max_train_samples"] = NUM_TRAINED
    folder: Path = train_config(make_sft(dataset=dataset, training__max_steps=1, sft={"max_length": 250}))
    return folder


def test_trained_rows_are_counted_and_stored(run, rows, score, caplog, tmp_path):
    words = ("generation.batch_size=12",)
    entries = score(open_run, run, *words, sets=SETS)
    leakage = [{"set": "mine", "rows": NUM_TRAINED, "documents": 0}]
    assert entries["mine"].result["leakage"] == leakage
    assert f"mine: the run was trained on {NUM_TRAINED} of its {NUM_ROWS} rows" in caplog.text
    assert json.loads((run / "eval_mine" / "results.json").read_text())["leakage"] == leakage

    caplog.clear()
    again = score(open_run, run, *words, sets=SETS)["mine"]
    assert (again.reused, again.result["leakage"]) == (True, leakage)
    assert "mine: the run was trained on" in caplog.text, "also reported for a stored score"

    caplog.clear()
    other = write_rows(tmp_path / "other", "drinks")
    found = score(open_run, run, *words, f"dataset.path={other}", sets=SETS)["mine"].result["leakage"]
    assert (found, "trained on" in caplog.text) == ([], False)


@pytest.mark.parametrize(
    ("is_there", "reason"),
    [(False, "no such file or folder"), (True, "the rows are no longer those that the run was trained on")],
)
def test_missing_or_changed_training_rows_are_reported(run, rows, is_there, reason, score, caplog, tmp_path):
    if is_there:
        write_rows(rows, "drinks")
    else:
        rows.rename(tmp_path / "moved")
    other = write_rows(tmp_path / "other", "eats")
    words = ("generation.batch_size=12", f"dataset.path={other}")
    assert score(open_run, run, *words, sets=SETS)["mine"].result["leakage"] is None
    assert "mine: not checked whether the run was trained on these rows: " in caplog.text
    assert reason in caplog.text


def test_sets_with_the_runs_prompt_have_no_overlap_key(sft_run, score):
    assert "leakage" not in score(open_run, sft_run, sets=["test"])["test"].result

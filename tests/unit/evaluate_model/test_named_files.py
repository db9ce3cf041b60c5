"""A file named for evaluation is scored completely, whatever the run held out or dropped of its own rows."""

from __future__ import annotations

import json

import pytest

from utils.core.errors import LoraNsError
from utils.evaluate_model.evaluated_model import open_model, open_run


def _count(entry):
    return entry.result["n"], entry.result["num_total"], entry.result["partial"]


def _write(folder, name, rows):
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _score_all(score, run, trained_on, other, **keys):
    """Score a file of 20 rows, and the run's own of 40, by every way of naming them."""
    assert _count(score(open_run, run, *keys.get("words", ()), sets=[str(other)])["other"]) == (20, 20, False)
    assert _count(score(open_run, run, sets=[f"{other}@train"])["other_train"]) == (20, 20, False)
    with pytest.raises(LoraNsError, match=r"no split called tset|without a split tset"):
        score(open_run, run, sets=[f"{other}@tset"])
    assert _count(score(open_run, run, sets=[str(trained_on)])["own"]) == (40, 40, False)
    assert _count(score(open_run, run, f"dataset.path={other}")["other"]) == (20, 20, False)
    part = f"{{name: {other}, max_samples: 5, label: part}}"
    assert _count(score(open_run, run, sets=[part])["part"]) == (5, 20, True)
    seven = score(open_run, run, "dataset.max_eval_samples=7", sets=[f"{{name: {other}, label: seven}}"])["seven"]
    assert _count(seven) == (7, 20, True)


def test_named_files_of_a_language_model_are_scored_completely(make_sft, train_config, score, base, tmp_path):
    rows = [{"prompt": f"How many is {n} + 1?", "completion": f" {n + 1}"} for n in range(60)]
    own, other = _write(tmp_path, "own.jsonl", rows[:40]), _write(tmp_path, "other.jsonl", rows[40:])
    run = train_config(
        make_sft(
            dataset={"name": "custom", "path": str(own), "validation_size": 0.25, "max_eval_samples": 3},
            evaluation={"sets": [{"name": str(other), "metrics": ["token_f1"]}]},
            generation={"max_new_tokens": 2, "batch_size": 20},
            training__max_steps=1,
        )
    )
    record = json.loads((run / "results.json").read_text("utf-8"))["evaluation"]["other"]
    assert (record["n"], record["partial"]) == (20, False)
    assert "token_f1" in record, "other settings of the dataset apply as well"
    _score_all(score, run, own, other)
    limit = ["generation.max_new_tokens=2"]
    entry = score(open_model, base, *limit, sets=[str(other)], output_dir=tmp_path / "plain")["other"]
    assert _count(entry) == (20, 20, False)


def test_named_files_of_a_classifier_are_scored_completely(make_config, draw_rows, train_config, score, tmp_path):
    rows = [{**row, "label": ("bad", "good")[row["label"]]} for row in draw_rows(60)]
    own, other = _write(tmp_path, "own.jsonl", rows[:40]), _write(tmp_path, "other.jsonl", rows[40:])
    run = train_config(
        make_config("bert", own, dataset__validation_size=0.25, dataset__max_eval_samples=3, training__max_steps=1)
    )
    _score_all(score, run, own, other)
    assert _count(score(open_run, run)["validation"]) == (3, 10, True)
    nine = score(open_run, run, sets=[f"{other}?max_eval_samples=9&label=nine"])["nine"]
    assert _count(nine) == (9, 20, True)
    with pytest.raises(LoraNsError, match=r"--set .*: text_columnn: Extra inputs are not permitted"):
        score(open_run, run, sets=[f"{other}?text_columnn=text"])

"""Using a trained run from Python: texts, pairs, files; a row keeps what the user wrote."""

from __future__ import annotations

import importlib
import json

import pytest

from utils.errors import UserError
from utils.inference.classification import RunClassifier


@pytest.fixture
def pairs(make_config, make_set, draw_rows):
    """Train a small run on pairs and give its classifier."""
    door = importlib.import_module("train")
    rows = draw_rows(24, pair=True)
    data = make_set("pairs", train=rows, validation=rows[:9])
    file = make_config.write("bert", data, dataset__text_column=["text", "other"])
    answer = door.main(door.build().parse_args(["--config", str(file)]))
    return RunClassifier(answer["output_dir"])


def test_pairs_texts_and_files(pairs, tmp_path):
    assert pairs.columns == ("text", "other")
    (row,) = pairs.classify_texts(["good w1", "w2"])
    assert (row["text"], row["other"]) == ("good w1", "w2")
    assert set(row["probabilities"]) == {"0", "1"}
    with pytest.raises(UserError, match="reads 2 texts per row"):
        pairs.classify_texts(["good w1"])
    source = tmp_path / "in.jsonl"
    rows = [{"text": f"good w{index}", "other": "w2", "label": 1, "id": index} for index in range(5)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert pairs.classify_file(str(source), str(tmp_path / "out.jsonl")) == 5
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in written] == list(range(5))
    assert {row["input_label"] for row in written} == {1}, "the user's own label is not overwritten"
    assert {row["label"] for row in written} <= {"0", "1"}


def test_a_language_model_run_is_refused(tmp_path):
    from types import SimpleNamespace

    from utils.inference.classification import text_columns

    with pytest.raises(UserError, match="is a CAUSAL_LM run"):
        text_columns(SimpleNamespace(task_type="CAUSAL_LM", task_name="chat"))

"""GLUE's tasks: names and order of labels, both validation sets of MNLI, unlabelled test rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils.data.glue import TASKS, Config, describe_classification

REAL = Path(os.environ.get("LORA_NS_REAL_DATA", "../shared/data")) / "glue"


def _describe(subset, **keys):
    return describe_classification(Config(subset=subset, **keys))


def test_wnli_has_the_reverse_order_of_rte_and_qnli():
    assert TASKS["wnli"].labels == ("not_entailment", "entailment")
    assert TASKS["rte"].labels == TASKS["qnli"].labels == ("entailment", "not_entailment")


def test_labels_keep_name_and_number(prepare_glue, make_set):
    rows = [{"sentence1": f"w{index}", "sentence2": "w9", "label": index % 2} for index in range(4)]
    data = prepare_glue(make_set(train=rows, validation=rows), "wnli")
    assert data.coder.names[1] == "entailment"
    assert data.train.dataset["labels"][:] == [0, 1, 0, 1]


def test_every_task_of_the_benchmark_is_there():
    assert set(TASKS) == {"cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "ax"}
    assert _describe("stsb").num_labels == 1
    assert _describe("mnli").eval_splits == {"": "validation_matched", "_mm": "validation_mismatched"}
    assert [each.file for each in _describe("mnli").submissions] == ["MNLI-m", "MNLI-mm", "AX"]
    assert (_describe("ax").train_split, _describe("ax").eval_splits) == (None, {})


def test_test_rows_may_be_labelled_minus_one_or_not_at_all(prepare_glue, make_set):
    rows = [{"sentence": f"w{index} w1", "label": index % 2} for index in range(4)]
    test = [{"sentence": "w3 w4 w5", "label": -1}, {"sentence": "w3", "label": -1}]
    data = prepare_glue(make_set(train=rows, validation=rows, test=test), "cola")
    ((submission, split),) = data.tests
    assert submission.file == "CoLA"
    assert "labels" not in split.dataset.column_names
    assert split.order == [1, 0]
    bare = [{"sentence": "w3"}]
    assert len(prepare_glue(make_set("bare", train=rows, validation=rows, test=bare), "cola").tests) == 1


def test_minus_one_among_training_rows_is_refused(prepare_glue, make_set):
    from utils.errors import DataError

    rows = [{"sentence": "w1", "label": 0}, {"sentence": "w2", "label": -1}]
    with pytest.raises(DataError, match=r"-1 \(row 1\)"):
        prepare_glue(make_set(train=rows, validation=rows), "cola")


def test_a_broken_test_file_is_said_and_costs_no_run(prepare_glue, make_set, caplog):
    rows = [{"sentence": f"w{index} w1", "label": index % 2} for index in range(4)]
    folder = make_set(train=rows, validation=rows)
    (folder / "test.jsonl").write_text('{"sentence": ')
    assert prepare_glue(folder, "cola").tests == []
    assert "no predictions for CoLA" in caplog.text
    assert "test.jsonl:1" in caplog.text


def test_a_checkpoints_order_maps_the_labels(prepare_glue, make_set):
    rows = [{"premise": f"w{index}", "hypothesis": "w9", "label": index % 3} for index in range(6)]
    folder = make_set(train=rows, validation_matched=rows, validation_mismatched=rows[:3])
    order = ("contradiction", "entailment", "neutral")
    data = prepare_glue(folder, "mnli", reorder=lambda names: order)
    assert data.coder.names == order
    assert data.train.dataset["labels"][:] == [1, 2, 0] * 2
    assert set(data.evals) == {"", "_mm"}
    assert data.reports["eval_mm"].rows == 3


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"text_column": "text"}, "text_column"),
        ({"num_labels": 3}, "num_labels"),
        ({"label_column": "gold"}, "label_column"),
    ],
)
def test_keys_that_contradict_the_task_are_found(keys, key):
    assert list(Config(subset="cola", **keys).contradictions()) == [key]
    assert Config(subset="cola", text_column=["sentence"], num_labels=2).contradictions() == {}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL} (LORA_NS_REAL_DATA)")
@pytest.mark.parametrize(("subset", "train", "validation"), [("wnli", 635, 71), ("stsb", 5749, 1500)])
def test_real_tasks_have_their_rows(prepare_glue, subset, train, validation):
    data = prepare_glue(REAL, subset)
    assert (data.reports["train"].rows, data.reports["eval"].rows) == (train, validation)
    if subset == "wnli":  # the majority of the adversarial validation rows is not_entailment, 56.34 %
        assert data.reports["eval"].label_counts == {"not_entailment": 40, "entailment": 31}

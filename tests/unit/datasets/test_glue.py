"""GLUE's tasks: label names and order, both validation sets of MNLI, unlabelled test rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils.core.errors import DataError
from utils.data.splits import open_split
from utils.datasets.glue import TASKS, Config, describe_classification

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


def test_every_task_of_the_benchmark_is_available():
    assert set(TASKS) == {"cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "ax"}
    assert _describe("stsb").num_labels == 1
    assert _describe("mnli").eval_splits == {"": "validation_matched", "_mm": "validation_mismatched"}
    assert [each.file for each in _describe("mnli").submissions] == ["MNLI-m", "MNLI-mm", "AX"]
    assert (_describe("ax").train_split, _describe("ax").eval_splits) == (None, {})


def test_test_rows_may_be_labelled_minus_one_or_unlabelled(prepare_glue, make_set):
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
    rows = [{"sentence": "w1", "label": 0}, {"sentence": "w2", "label": -1}]
    with pytest.raises(DataError, match=r"train\.jsonl:2: the label -1 is of no class"):
        prepare_glue(make_set(train=rows, validation=rows), "cola")


def test_a_broken_test_file_is_reported_without_stopping_the_run(prepare_glue, make_set, caplog):
    rows = [{"sentence": f"w{index} w1", "label": index % 2} for index in range(4)]
    folder = make_set(train=rows, validation=rows)
    (folder / "test.jsonl").write_text('{"sentence": ')
    assert prepare_glue(folder, "cola").tests == []
    assert "no predictions for CoLA" in caplog.text
    assert "test.jsonl:1" in caplog.text


def test_labels_are_mapped_to_the_checkpoints_order(prepare_glue, make_set):
    rows = [{"premise": f"w{index}", "hypothesis": "w9", "label": index % 3} for index in range(6)]
    folder = make_set(train=rows, validation_matched=rows, validation_mismatched=rows[:3])
    order = ("contradiction", "entailment", "neutral")
    data = prepare_glue(folder, "mnli", reorder=lambda names: order)
    assert data.coder.names == order
    assert data.train.dataset["labels"][:] == [1, 2, 0] * 2
    assert set(data.evals) == {"", "_mm"}
    assert data.reports["eval_mm"].rows == 3


DOWNLOAD = {
    "CoLA/train.tsv": 'gj04\t1\t\tShe said "no.\ngj04\t0\t*\tThe "book was.\n',
    "CoLA/dev.tsv": "gj04\t1\t\tw1 w2\n",
    "CoLA/test.tsv": "index\tsentence\n0\tw3 w4 w5\n1\tw3\n",
    "SST-2/train.tsv": "sentence\tlabel\ngood \t1\nbad \t0\n",
    "SST-2/dev.tsv": "sentence\tlabel\ngood w1 \t1\n",
    "MRPC/msr_paraphrase_train.txt": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    '1\t10\t11\t"w1\tw2\n0\t12\t13\tw3\tw4\n1\t14\t15\tw5\tw6\n',
    "MRPC/msr_paraphrase_test.txt": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\tw1\tw2\n",
    "MRPC/dev_ids.tsv": "14\t15\n",
    "QQP/train.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n5\t1\t2\tw1\tw2\t0\n6\t1\t2\tw1\tw3\t1\n",
    "QQP/dev.tsv": "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n7\t1\t2\tw1\tw2\t1\n",
    "QQP/test.tsv": "id\tquestion1\tquestion2\n20\tw1 w2 w3\tw2\n21\tw1\tw2\n",
    "STS-B/train.tsv": "index\tgenre\tsentence1\tsentence2\tscore\n0\tnews\tw1\tw2\t2.500\n1\tnews\tw1\tw2\t5.000\n",
    "STS-B/dev.tsv": "index\tgenre\tsentence1\tsentence2\tscore\n0\tnews\tw1\tw2\t0.200\n",
    "MNLI/train.tsv": "index\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n0\tx\tw1\tw2\tneutral\tneutral\n"
    "1\tx\tw1\tw3\tneutral\tentailment\n2\tx\tw1\tw4\tneutral\tcontradiction\n",
    "MNLI/dev_matched.tsv": "index\tsentence1\tsentence2\tgold_label\n0\tw1\tw2\tneutral\n",
    "MNLI/dev_mismatched.tsv": "index\tsentence1\tsentence2\tgold_label\n0\tw1\tw2\tentailment\n1\tw1\tw2\tneutral\n",
    "MNLI/test_matched.tsv": "index\tsentence1\tsentence2\n0\tw1\tw2\n",
    "MNLI/test_mismatched.tsv": "index\tsentence1\tsentence2\n9\tw1\tw2\n",
    "AX/AX.tsv": "index\tsentence1\tsentence2\n0\tw1\tw2\n1\tw1\tw2\n",
    "QNLI/train.tsv": "index\tquestion\tsentence\tlabel\n0\tw1\tw2\tentailment\n1\tw1\tw3\tnot_entailment\n",
    "QNLI/dev.tsv": 'index\tquestion\tsentence\tlabel\n0\tw1\t"w2\tnot_entailment\n1\tw1\tw2\tentailment\n',
    "RTE/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tw1\tw2\tnot_entailment\n1\tw1\tw2\tentailment\n",
    "RTE/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tw1\tw2\tentailment\n",
    "RTE/test.tsv": 'index\tsentence1\tsentence2\n7\t"w1 w2 w3\tw2\n5\tw1"\tw2\n6\tw1 w4\tw2\n',
    "WNLI/train.tsv": "index\tsentence1\tsentence2\tlabel\n0\tw1\tw2\t1\n1\tw1\tw2\t0\n",
    "WNLI/dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\tw1\tw2\t0\n",
}  # fmt: skip
"""A few rows of every task under the names and columns of the official download."""


@pytest.fixture
def download(tmp_path):
    for name, text in DOWNLOAD.items():
        file = tmp_path / "glue_data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    return tmp_path / "glue_data"


@pytest.mark.parametrize(
    ("subset", "train", "evals"),
    [
        ("cola", [1, 0], {"": [1]}),
        ("sst2", [1, 0], {"": [1]}),
        ("mrpc", [1, 0], {"": [1]}),
        ("qqp", [0, 1], {"": [1]}),
        ("stsb", [2.5, 5.0], {"": [0.2]}),
        ("mnli", [1, 0, 2], {"": [1], "_mm": [0, 1]}),
        ("qnli", [0, 1], {"": [1, 0]}),
        ("rte", [1, 0], {"": [0]}),
        ("wnli", [1, 0], {"": [0]}),
    ],
)
def test_the_official_download_is_read_unchanged(prepare_glue, download, subset, train, evals):
    data = prepare_glue(download, subset)
    assert data.train.dataset["labels"][:] == pytest.approx(train)
    assert {key: split.dataset["labels"][:] for key, split in data.evals.items()} == {
        key: pytest.approx(labels) for key, labels in evals.items()
    }
    own = prepare_glue(download / TASKS[subset].folder, subset)
    assert own.fingerprint == data.fingerprint or subset == "mnli", "AX is in another folder"


def test_texts_and_extra_rows_of_the_official_download(prepare_glue, download):
    cola, mnli = prepare_glue(download, "cola"), prepare_glue(download, "mnli")
    assert cola.train.texts["sentence"][:] == ['She said "no.', 'The "book was.']
    assert prepare_glue(download, "mrpc").train.texts["sentence1"][:] == ['"w1', "w3"]
    assert {each.file: len(split.dataset) for each, split in mnli.tests} == {"MNLI-m": 1, "MNLI-mm": 1, "AX": 2}
    (download / "MRPC" / "dev_ids.tsv").unlink()
    with pytest.raises(DataError, match=r"dev_ids\.tsv: no such file; it names the rows"):
        prepare_glue(download, "mrpc")
    (download / "WNLI").rename(download / "elsewhere")
    with pytest.raises(DataError, match="glue_data: no folder WNLI; there are: CoLA, SST-2"):
        prepare_glue(download, "wnli")


@pytest.mark.parametrize(("subset", "numbers"), [("rte", ["7", "5", "6"]), ("qqp", ["20", "21"]), ("cola", ["0", "1"])])
def test_a_submission_keeps_the_test_files_row_ids(prepare_glue, download, tmp_path, subset, numbers):
    from types import SimpleNamespace

    import numpy

    from utils.results.exports import write_submission
    from utils.tasks.classification.scoring import predict_tests

    data = prepare_glue(download, subset)
    ((submission, split),) = data.tests
    longest = max(split.dataset["length"][:])

    def predict(rows):
        return SimpleNamespace(predictions=numpy.array([n == longest for n in rows["length"][:]], int))

    predicted = predict_tests(SimpleNamespace(predict=predict), data)[submission.file]
    path = write_submission(tmp_path, submission.file, predicted, "index", data.spec.label_names)
    _, *lines = path.read_text().splitlines()
    assert lines == [f"{number}\t{int(row == 0)}" for row, number in enumerate(numbers)]


@pytest.mark.parametrize(("subset", "file"), [("mnli", "MNLI/dev_matched.tsv"), ("cola", "CoLA/dev.tsv")])
def test_a_single_file_of_the_download_has_the_hubs_columns(download, subset, file):
    spec = _describe(subset, path=str(download / file))
    rows = open_split(spec, "train")
    assert {*spec.text_columns, "label"} <= set(rows.column_names())
    assert len(rows) == DOWNLOAD[file].count("\n") - (subset == "mnli")


def test_columns_already_named_as_on_the_hub_are_kept(tmp_path):
    (tmp_path / "train.tsv").write_text("premise\thypothesis\tsentence1\tlabel\nw1\tw2\tw3\tneutral\n")
    (row,) = open_split(_describe("mnli", path=str(tmp_path)), "train")
    assert (row["premise"], row["sentence1"]) == ("w1", "w3")


def test_a_test_file_with_a_broken_row_or_duplicate_id_is_not_submitted(prepare_glue, download, caplog):
    for text, reason in (
        ("index\tsentence1\tsentence2\n0\tw1\tw2\n1\tw1\n", "test.tsv:3: 2 fields where the header has 3"),
        ("index\tsentence1\tsentence2\n0\tw1\tw2\n0\tw1\tw3\n", "rows of test RTE have the same number"),
    ):
        (download / "RTE" / "test.tsv").write_text(text)
        assert prepare_glue(download, "rte").tests == []
        assert reason in caplog.text


RAW = REAL.parent / "glue_raw"


@pytest.mark.skipif(not RAW.is_dir(), reason=f"no real data at {RAW} (LORA_NS_REAL_DATA)")
@pytest.mark.parametrize(("subset", "folder"), [("rte", "RTE"), ("stsb", "STS-B"), ("sst2", "SST-2"), ("mrpc", "MRPC")])
def test_real_files_lose_no_row(subset, folder):
    spec = _describe(subset, path=str(RAW))
    for split, file in (("train", "train"), ("validation", "dev"), ("test", "test")):
        path = RAW / folder / f"{file}.tsv"
        rows = open_split(spec, split)
        assert (rows is not None) == path.is_file()
        if rows is None:
            continue
        _, *lines = path.read_text("utf-8").removesuffix("\n").split("\n")
        assert [list(row.values()) for row in rows] == [line.split("\t") for line in lines]
        assert set(spec.text_columns) <= set(rows.column_names())
        assert ("label" in rows.column_names()) == (split != "test")


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"text_column": "text"}, "text_column"),
        ({"num_labels": 3}, "num_labels"),
        ({"label_column": "gold"}, "label_column"),
    ],
)
def test_keys_that_contradict_the_task_are_refused(keys, key):
    assert list(Config(subset="cola", **keys).find_conflicts()) == [key]
    assert Config(subset="cola", text_column=["sentence"], num_labels=2).find_conflicts() == {}


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real data at {REAL} (LORA_NS_REAL_DATA)")
@pytest.mark.parametrize(("subset", "train", "validation"), [("wnli", 635, 71), ("stsb", 5749, 1500)])
def test_real_tasks_have_their_rows(prepare_glue, subset, train, validation):
    data = prepare_glue(REAL, subset)
    assert (data.reports["train"].rows, data.reports["eval"].rows) == (train, validation)
    if subset == "wnli":  # the majority of the adversarial validation rows is not_entailment, 56.34 %
        assert data.reports["eval"].label_counts == {"not_entailment": 40, "entailment": 31}

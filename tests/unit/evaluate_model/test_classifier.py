"""Evaluating classifiers: the scores of training, any order of labels, no random heads."""

from __future__ import annotations

import json

import pytest

from utils.core.errors import DataError, ModelError, UserError
from utils.evaluate_model.evaluated_model import open_model, open_run


def _name(rows):
    return [{**row, "label": ("bad", "good")[row["label"]]} for row in rows]


def _read(folder):
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    return json.loads((folder / "results.json").read_text("utf-8")), rows


@pytest.fixture
def trained(make_config, make_set, draw_rows, train_config):
    """Train a small classifier on string labels; return its folder and that of its rows."""
    data = make_set(
        train=_name(draw_rows(60)), validation=_name(draw_rows(31, seed=1)), test=_name(draw_rows(25, seed=2))
    )
    return train_config(make_config("llama", data, training__num_train_epochs=2)), data


def test_a_run_scores_as_in_training(trained, score, fingerprint, caplog):
    from utils.runs import open_model as runs

    run, data = trained
    before = fingerprint(run)
    record = json.loads((run / "results.json").read_text("utf-8"))
    entry = score(open_run, run)["validation"]
    result, rows = _read(run / "eval_validation")
    for name in ("accuracy", "f1", "loss"):
        assert result["metrics"][name] == pytest.approx(record["metrics"][name], abs=1e-6)
    assert result["interval"] == record["interval"]
    assert result["baseline"] == record["baseline"]
    assert entry.difference == 0
    source = [json.loads(line) for line in (data / "validation.jsonl").read_text("utf-8").splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [(row["text"], row["label"]) for row in source]
    assert result["metrics"]["accuracy"] == sum(row["label"] == row["prediction"] for row in rows) / len(rows)

    from utils.generation.classification import TextClassifier

    model, tokenizer = runs.open_run(run).load()
    for row, answer in zip(
        rows,
        TextClassifier(model, tokenizer, ("bad", "good"), 32).classify((row["text"],) for row in rows),
        strict=True,
    ):
        assert row["prediction"] == answer.label
        assert row["probabilities"] == pytest.approx(answer.probabilities, abs=1e-4)

    assert score(open_run, run)["validation"].reused, "the head below the trained one is random and unused"
    assert "eval_validation: already done" in caplog.text
    assert not list(run.glob("*.old_*"))
    assert fingerprint(run) == before


def test_other_rows(trained, score, make_set, draw_rows, tmp_path, caplog):
    run, _ = trained
    test = score(open_run, run, "dataset.max_eval_samples=10", sets=["test"])["test"]
    assert (test.result["n"], test.result["num_total"], test.result["partial"]) == (10, 25, True)
    part = score(open_run, run, "dataset.max_eval_samples=10")["validation"]
    assert part.difference is None
    assert "validation: not compared with the run's own record: the rows differ: 31 there, 10 here" in caplog.text

    rows = [{"text": "good w1", "label": "Good"}, {"text": "bad w2", "label": "BAD"}, {"text": "w3", "label": "BAD"}]
    odd = make_set("odd", rows=rows) / "rows.jsonl"
    entry = score(open_run, run, sets=[f"{{name: {odd}, label: odd}}"])["odd"]
    assert entry.result["label_names"] == ["BAD", "Good"], "the order is the run's, the spelling the rows'"
    assert entry.result["baseline"] == {}
    single = make_set("single", rows=rows[1:]) / "rows.jsonl"
    entry = score(open_run, run, sets=[f"{{name: {single}, label: single}}"])["single"]
    assert entry.result["label_names"] == ["BAD", "good"], "rows of one class are scored by the run's classes"
    strange = make_set("strange", rows=[*rows, {"text": "w4", "label": "fair"}]) / "rows.jsonl"
    with pytest.raises(DataError, match=r"never learned the classes fair \(.*rows\.jsonl:4\); it knows bad, good"):
        score(open_run, run, sets=[str(strange)])
    twice = make_set("twice", rows=[*rows, {"text": "w4", "label": "bad"}]) / "rows.jsonl"
    with pytest.raises(DataError, match=r"in two ways, BAD \(.*rows\.jsonl:2\), bad \(.*rows\.jsonl:4\)"):
        score(open_run, run, sets=[str(twice)])
    with pytest.raises(DataError, match="no split called nowhere"):
        score(open_run, run, sets=["nowhere"])
    with pytest.raises(UserError, match="a classifier takes whole splits"):
        score(open_run, run, sets=["@test[:5]"])


@pytest.fixture
def classifier(tiny_base, tmp_path):
    """Return a function that saves a classifier with the given label names."""

    def make(*names):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        folder, base = tmp_path / "classifier", tiny_base("bert")
        ids = dict(enumerate(names))
        AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=len(names), id2label=ids, label2id={name: index for index, name in ids.items()}
        ).save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def glue(tmp_path, draw_rows):
    """Write MNLI's splits with GLUE's labels: 0 entailment, 1 neutral, 2 contradiction."""
    sizes = {"train": 12, "validation_matched": 40, "validation_mismatched": 20, "test_matched": 4}
    for split, size in sizes.items():
        rows = [
            {"premise": row["text"], "hypothesis": f"w{index}", "label": -1 if "test" in split else index % 3}
            for index, row in enumerate(draw_rows(size, seed=size))
        ]
        file = tmp_path / "glue" / "mnli" / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "glue"


def test_a_published_classifier_keeps_its_order_of_labels(classifier, glue, score, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = classifier("CONTRADICTION", "ENTAILMENT", "NEUTRAL")
    words = [f"dataset.path={glue}"]
    entries = score(open_model, folder, *words, sets=["glue:mnli"], output_dir=tmp_path / "out")
    assert list(entries) == ["glue_mnli", "glue_mnli_mm"]
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    names = ("entailment", "neutral", "contradiction")
    for label, split in (("glue_mnli", "validation_matched"), ("glue_mnli_mm", "validation_mismatched")):
        result, answers = _read(tmp_path / "out" / label)
        rows = [json.loads(line) for line in (glue / "mnli" / f"{split}.jsonl").read_text().splitlines()]
        right = []
        for row, answer in zip(rows, answers, strict=True):
            with torch.inference_mode():
                best = int(model(**tokenizer(row["premise"], row["hypothesis"], return_tensors="pt")).logits.argmax())
            assert answer["prediction"] == model.config.id2label[best].lower()
            assert answer["label"] == names[row["label"]]
            right.append(answer["prediction"] == answer["label"])
        assert 0 < sum(right) < len(right), "scores of 0 or 1 would hide a wrong label order"
        assert result["metrics"]["accuracy"] == pytest.approx(sum(right) / len(right))
        assert result["dataset"]["split"] == split
    with pytest.raises(UserError, match="test_matched rows are not public"):
        score(open_model, folder, *words, sets=["glue:mnli@test_matched"], output_dir=tmp_path / "out")
    one = score(open_model, folder, *words, sets=["glue:mnli@validation_mismatched"], output_dir=tmp_path / "out")
    assert [entry.result["n"] for entry in one.values()] == [20]


def test_a_random_head_or_a_quantized_one_is_refused(classifier, glue, tiny_base, score, tmp_path):
    for folder in (tiny_base("bert"), classifier("bad", "good")):
        with pytest.raises(ModelError, match="has no trained head for 3 labels"):
            score(open_model, folder, f"dataset.path={glue}", sets=["glue:mnli"], output_dir=tmp_path / "out")
    folder = classifier("entailment", "neutral", "contradiction")
    words = [f"dataset.path={glue}", "model.quantization=nf4"]
    with pytest.raises(ModelError, match="a quantized classifier without adapter cannot be scored"):
        score(open_model, folder, *words, sets=["glue:mnli"], output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_regression_run_requires_numbers(make_config, make_set, draw_rows, train_config, score, tmp_path):
    rows = [{**row, "label": row["label"] + len(row["text"]) / 100} for row in draw_rows(30)]
    data = make_set("numbers", train=rows, validation=rows[:11])
    run = train_config(make_config("bert", data, dataset__num_labels=1))
    entry = score(open_run, run)["validation"]
    assert entry.shown == ("pearson", "spearmanr", "combined_score")
    assert entry.difference == pytest.approx(0, abs=1e-6)
    _, answers = _read(entry.folder)
    assert [answer["label"] for answer in answers] == pytest.approx([row["label"] for row in rows[:11]])
    assert "probabilities" not in answers[0]

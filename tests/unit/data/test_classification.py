"""Preparing a classification dataset: splits, labels, checks and tokens, and the pitfalls of real data."""

from __future__ import annotations

import logging

import pytest

from utils.core.errors import DataError


def _rows(*pairs):
    return [{"text": text, "label": label} for text, label in pairs]


PLAIN = _rows(("good w1", 1), ("bad w2", 0), ("good w3 w4", 1))


def test_evaluation_rows_are_sorted_by_length_and_keep_their_index(prepare, make_set):
    validation = _rows(("good w1 w2 w3", 1), ("bad", 0), ("good w5", 1))
    data = prepare(make_set(train=PLAIN, validation=validation))
    split = data.evals[""]
    assert split.order == [1, 2, 0]
    assert split.texts["text"][:] == ["bad", "good w5", "good w1 w2 w3"]
    assert split.dataset["labels"][:] == [0, 1, 1]
    assert split.dataset["length"][:] == sorted(split.dataset["length"][:])
    assert data.train.order == [0, 1, 2]


def test_a_missing_column_lists_the_existing_ones(prepare, make_set):
    folder = make_set(train=[{"sentence": "a", "gold": 1}], validation=PLAIN)
    with pytest.raises(DataError, match="split train: no column text, label; there are: sentence, gold"):
        prepare(folder)


def test_a_column_of_lists_is_refused(prepare, make_set):
    rows = [{"text": ["a", "b"], "label": 1}, {"text": ["c"], "label": 0}]
    with pytest.raises(DataError, match=r"train\.jsonl:1: column text holds a list"):
        prepare(make_set(train=rows, validation=rows))


def test_a_column_of_several_labels_is_refused(prepare, make_set):
    rows = [{"text": "a", "label": [0, 1]}]
    with pytest.raises(DataError, match=r"train\.jsonl:1: column label holds a list"):
        prepare(make_set(train=rows, validation=rows))


def test_unseen_validation_labels_are_named(prepare, make_set):
    folder = make_set(train=PLAIN, validation=_rows(("good", 1), ("so so", 2), ("worse", 3)))
    with pytest.raises(DataError) as caught:
        prepare(folder)
    first, second, third = str(caught.value).splitlines()
    assert first.endswith("validation.jsonl:2: the label 2 is of no class; the classes are 0, 1")
    assert second.startswith("2 of 3 rows of eval cannot be used; fix them, or set dataset.on_bad_row: drop")
    assert third.endswith("validation.jsonl:3: the label 3 is of no class; the classes are 0, 1")


def test_unseen_string_labels_are_named(prepare, make_set):
    folder = make_set(train=_rows(("a", "x"), ("b", "y")), validation=_rows(("c", "z")))
    with pytest.raises(DataError, match=r"validation\.jsonl:1: the label 'z' is of no class; the classes are x, y"):
        prepare(folder)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_empty_split_is_refused(prepare, make_set, split):
    folder = make_set(**{"train": PLAIN, "validation": PLAIN, split: []})
    with pytest.raises(DataError, match=rf"{split}\.jsonl: the file is empty"):
        prepare(folder)


def test_an_empty_parquet_split_is_refused(prepare, make_set, tmp_path):
    import datasets

    for split, rows in (("train", PLAIN), ("validation", [])):
        columns = {key: [row[key] for row in rows] for key in ("text", "label")}
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.Value("int64")})
        (tmp_path / "p").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "p" / f"{split}.parquet")
    with pytest.raises(DataError, match=r"the split eval is empty|holds no rows"):
        prepare(tmp_path / "p")


def test_splits_of_one_row_work(prepare, make_set):
    data = prepare(make_set(train=PLAIN[:2], validation=PLAIN[:1]))
    assert (len(data.train.dataset), len(data.evals[""].dataset)) == (2, 1)
    assert data.reports["eval"].token_lengths == {"p50": 4, "p95": 4, "max": 4}


def test_a_single_row_cannot_be_held_out_and_trained_on(prepare, make_set):
    folder = make_set(train=PLAIN[:1])
    with pytest.raises(DataError, match="leaves none of the 1 rows to train on"):
        prepare(folder, validation_size=0.2, num_labels=1)


def test_rows_are_held_out_by_seed_without_losing_any(prepare, make_set, draw_rows):
    rows = draw_rows(20)
    folder = make_set(train=rows)
    texts = lambda data: (data.train.texts["text"][:], data.evals[""].texts["text"][:])
    train, validation = texts(prepare(folder, validation_size=0.25))
    assert sorted(train + validation) == sorted(row["text"] for row in rows)
    assert len(validation) == 5
    assert texts(prepare(folder, validation_size=0.25)) == (train, validation)
    assert texts(prepare(folder, validation_size=0.25, seed=7))[1] != validation


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_bad_label_is_located_in_the_file_held_out_or_not(prepare, tmp_path, kind, seed):
    import pandas

    rows = pandas.DataFrame(_rows(*((f"t {n}", None if n == 29 else f"c{n % 2}") for n in range(40))))
    file = tmp_path / f"rows.{kind}"
    write = {
        "jsonl": lambda: rows.to_json(file, orient="records", lines=True),
        "json": lambda: file.write_text(rows.to_json(orient="records").replace("},{", "},\n{")),
        "csv": lambda: rows.to_csv(file, index=False),
        "tsv": lambda: rows.to_csv(file, index=False, sep="\t"),
        "parquet": lambda: rows.to_parquet(file),
    }
    write[kind]()
    place = {"jsonl": ":30", "json": ":30", "csv": ":31", "tsv": ":31", "parquet": ", row 29"}[kind]
    with pytest.raises(DataError) as caught:
        prepare(file, validation_size=0.25, seed=seed)
    assert str(caught.value).startswith(f"{file}{place}: has no label\n1 of 40 rows of train cannot be used; fix them")
    data = prepare(file, validation_size=0.25, seed=seed, on_bad_row="drop")
    assert (data.reports["train"].rows, data.reports["eval"].rows) == (29, 10)
    assert (data.reports["train"].bad_rows, data.reports["eval"].bad_rows) == (1, 0)
    assert data.reports["train"].bad_examples == [f"{file}{place}: has no label"]


def test_the_hold_out_is_stratified_and_every_class_is_known(prepare, make_set):
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 9 + ["d"]
    folder = make_set(train=_rows(*((f"w{n} x{n}", label) for n, label in enumerate(labels))))
    for seed in range(12):
        data = prepare(folder / "train.jsonl", validation_size=20, seed=seed)
        assert data.label_names == ("a", "b", "c", "d")
        assert data.reports["eval"].label_counts == {"a": 12, "b": 6, "c": 2, "d": 0}
        assert data.reports["train"].label_counts == {"a": 48, "b": 24, "c": 7, "d": 1}
    with pytest.raises(DataError, match="validation_size leaves one of the classes without a row to train on"):
        prepare(folder / "train.jsonl", validation_size=97)


def test_regression_targets_of_any_value_are_held_out(prepare, make_set):
    folder = make_set(train=_rows(*((f"w{n}", n / 4) for n in range(8))))
    data = prepare(folder / "train.jsonl", validation_size=0.5, num_labels=1)
    assert sorted(data.train.dataset["labels"][:] + data.evals[""].dataset["labels"][:]) == [n / 4 for n in range(8)]


def test_sampled_training_rows_equal_those_of_the_datasets_library(prepare, make_set, draw_rows):
    import datasets

    rows = draw_rows(30)
    expected = datasets.Dataset.from_list(rows).shuffle(seed=5).select(range(10))["text"][:]
    folder = make_set(train=rows, validation=PLAIN)
    assert prepare(folder, max_train_samples=10, seed=5).train.texts["text"][:] == expected


def test_unknown_characters_are_reported(prepare, make_set, caplog):
    rows = _rows(("good \u597d\u7684 w1", 1), ("good \u597d", 0), ("bad", 1))
    data = prepare(make_set(train=rows, validation=PLAIN))
    assert data.reports["train"].unreadable == {"\u597d": 2, "\u7684": 1}
    assert "the tokenizer does not know these characters" in caplog.text
    assert "\u597d \u7684 (the first in 2 rows)" in caplog.text
    assert data.reports["eval"].unreadable == {}


def test_a_label_spelled_in_two_ways_is_reported(prepare, make_set, caplog):
    rows = _rows(("a", "yes"), ("b", "no"), ("c", "Yes"))
    folder = make_set(train=rows, validation=rows)
    assert prepare(folder).num_labels == 3
    assert f"column label: 'yes' ({folder / 'train.jsonl'}:1) and 'Yes' ({folder / 'train.jsonl'}:3)" in caplog.text


def test_labels_of_tables_are_numbers_in_all_splits_or_none(prepare, tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na,0\nb,1\nc,1\n")
    (tmp_path / "validation.csv").write_text("text,label\na,1\nb,0\n")
    data = prepare(tmp_path)
    assert data.coder.numbers == {0: 0, 1: 1}
    (tmp_path / "validation.csv").write_text("text,label\na,1\nb,maybe\n")
    with pytest.raises(DataError, match=r"validation\.csv:3: the label 'maybe' is of no class; the classes are 0, 1"):
        prepare(tmp_path)


def test_a_lone_surrogate_is_a_bad_row(prepare, make_set):
    folder = make_set(train=PLAIN, validation=PLAIN)
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"text": "\\ud800", "label": 1}\n')
    with pytest.raises(DataError, match=r"train\.jsonl:4: column text holds half a character"):
        prepare(folder)


def test_very_long_labels_are_truncated_in_messages(prepare, make_set):
    folder = make_set(train=PLAIN, validation=_rows(("a", "x" * 5000)))
    with pytest.raises(DataError, match=r"the label 'x{79}\.\.\. is of no class") as caught:
        prepare(folder)
    assert len(str(caught.value)) < 500


def test_quoting_applies_to_tables_only():
    from utils.datasets.custom import Config

    assert Config(path="rows.tsv", quoting=True).find_conflicts() == {}
    assert Config(path="rows.jsonl", quoting=False).find_conflicts() == {
        "quoting": "has no effect on a .jsonl file; leave it out"
    }


def test_no_validation_split_says_what_to_do(prepare, make_set):
    with pytest.raises(DataError, match=r"no split called validation; .*validation_path.*validation_size"):
        prepare(make_set(train=PLAIN))


def test_no_training_split_says_what_to_do(prepare, make_set):
    with pytest.raises(DataError, match=r"no split called train; set dataset\.train_split"):
        prepare(make_set(validation=PLAIN))


def test_a_single_file_with_a_validation_file(prepare, make_set):
    folder = make_set(mine=PLAIN, other=PLAIN[:2])
    data = prepare(folder / "mine.jsonl", validation_path=str(folder / "other.jsonl"))
    assert (data.reports["train"].rows, data.reports["eval"].rows) == (3, 2)


def test_empty_texts_are_counted_and_kept(prepare, make_set, caplog):
    rows = _rows(("", 1), ("  ", 0), (None, 1), ("good", 0))
    data = prepare(make_set(train=rows, validation=PLAIN))
    assert data.reports["train"].empty_texts == 3
    assert data.train.texts["text"][:] == ["", "  ", "", "good"]
    assert "3 rows have an empty text" in caplog.text


def test_numeric_texts_are_read_as_text_with_a_notice(prepare, make_set, caplog):
    data = prepare(make_set(train=_rows((0, 1), (0, 0)), validation=_rows((0, 1), (0, 0))))
    assert data.train.texts["text"][:] == ["0", "0"]
    assert data.reports["train"].empty_texts == 0
    assert "holds values of type int; they are read as text" in caplog.text


def test_rows_in_both_splits_are_counted(prepare, make_set, caplog):
    validation = [*PLAIN[:2], {"text": "new one", "label": 0}]
    data = prepare(make_set(train=PLAIN, validation=validation))
    assert data.reports["eval"].shared_with_train == 2
    assert "2 rows are in the training split too" in caplog.text


def test_a_pair_counts_as_shared_only_as_a_whole(prepare, make_set):
    train = [{"a": "x", "b": "y", "label": 0}, {"a": "p", "b": "q", "label": 1}]
    validation = [{"a": "x", "b": "q", "label": 0}, {"a": "p", "b": "q", "label": 1}]
    data = prepare(make_set(train=train, validation=validation), text_column=["a", "b"])
    assert data.reports["eval"].shared_with_train == 1


def test_truncated_rows_are_counted_by_split(prepare, make_set, caplog):
    rows = _rows((" ".join(["w1"] * 40), 1), ("good", 0), (" ".join(["w2"] * 31), 1), (" ".join(["w3"] * 30), 0))
    with caplog.at_level(logging.INFO):
        data = prepare(make_set(train=rows, validation=PLAIN))
    assert data.reports["train"].truncated_rows == 2
    assert data.reports["eval"].truncated_rows == 0
    assert data.reports["train"].token_lengths["max"] == 32
    assert "2 cut (50.0%)" in caplog.text


def test_a_class_without_rows_is_reported(prepare, make_set, caplog):
    rows = _rows(("a", "x"), ("b", "y"))
    data = prepare(make_set(train=rows, validation=rows), label_names=["x", "y", "z"])
    assert data.num_labels == 3
    assert data.reports["train"].label_counts == {"x": 1, "y": 1, "z": 0}
    assert "data train: these classes never occur: z" in caplog.text


def test_many_absent_classes_are_reported_in_one_line(prepare, make_set, caplog):
    rows = _rows(("a", 0), ("b", 500))
    prepare(make_set(train=rows, validation=rows))
    lines = [record.getMessage() for record in caplog.records if "never occur" in record.getMessage()]
    assert len(lines) == 2
    assert lines[0].endswith("and 489 more")


def test_row_limits_sample_by_seed_and_are_reported(prepare, make_set, draw_rows):
    folder = make_set(train=draw_rows(30), validation=draw_rows(9, seed=1))
    data = prepare(folder, max_train_samples=10, max_eval_samples=4)
    assert (data.reports["train"].rows, data.reports["train"].left_out_rows) == (10, 20)
    assert (data.reports["eval"].rows, data.reports["eval"].left_out_rows) == (4, 5)
    first = set(data.train.texts["text"][:])
    assert first != {row["text"] for row in draw_rows(30)[:10]}
    assert set(prepare(folder, max_train_samples=10).train.texts["text"][:]) == first
    assert set(data.evals[""].texts["text"][:]) == {row["text"] for row in draw_rows(9, seed=1)[:4]}


def test_the_fingerprint_follows_the_rows(prepare, make_set):
    one = prepare(make_set("one", train=PLAIN, validation=PLAIN)).fingerprint
    same = prepare(make_set("two", train=PLAIN, validation=PLAIN)).fingerprint
    other = prepare(make_set("three", train=PLAIN, validation=PLAIN[:2])).fingerprint
    flipped = [{**row, "label": 1 - row["label"]} for row in PLAIN]
    assert one == same
    assert len({one, other, prepare(make_set("four", train=flipped, validation=PLAIN)).fingerprint}) == 3


def test_dates_as_text_survive_in_the_probe_rows(prepare, tmp_path):
    import datetime
    import json

    import datasets

    days = [datetime.datetime(2026, 1, day, tzinfo=datetime.timezone.utc) for day in (1, 2)]
    (tmp_path / "d").mkdir()
    for split in ("train", "validation"):
        rows = datasets.Dataset.from_dict({"text": days, "label": [0, 1]})
        rows.to_parquet(tmp_path / "d" / f"{split}.parquet")
    texts = prepare(tmp_path / "d").evals[""].texts
    assert json.dumps(texts[0]).startswith('{"text": "2026-01-0')

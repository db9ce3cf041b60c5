"""Labels of every kind become the model's ids, or a sentence that names the row."""

from __future__ import annotations

import logging

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from utils.data.custom import Config, describe_classification
from utils.data.labels import build_label_coder
from utils.errors import DataError


def _build(labels, reorder=lambda names: names, features=None, **keys):
    rows = Dataset.from_dict({"text": ["t"] * len(labels), "label": labels}, features=features)
    spec = describe_classification(Config(path="x", **keys))
    return build_label_coder(spec, rows, reorder)


@pytest.mark.parametrize(
    ("labels", "keys", "names", "encoded"),
    [
        ([1, 0, 2], {}, ("0", "1", "2"), [1, 0, 2]),
        ([1, 3, 2], {}, ("1", "2", "3"), [0, 2, 1]),
        ([1, 2, 1], {"num_labels": 2}, ("1", "2"), [0, 1, 0]),
        ([0, 2, 0], {}, ("0", "1", "2"), [0, 2, 0]),
        ([1, 2], {"num_labels": 3}, ("0", "1", "2"), [1, 2]),
        ([0, 4], {"num_labels": 2}, ("0", "4"), [0, 1]),
        (["pos", "neg", "pos"], {}, ("neg", "pos"), [1, 0, 1]),
        (["pos", "neg"], {"label_names": ["pos", "neg"]}, ("pos", "neg"), [0, 1]),
        ([1, 0], {"label_names": ["no", "yes"]}, ("no", "yes"), [1, 0]),
        ([True, False], {}, ("False", "True"), [1, 0]),
        ([1.0, 0.0], {}, ("0", "1"), [1, 0]),
        ([1, 0, -1], {}, ("0", "1"), None),
    ],
)
def test_classes_are_found_and_encoded(labels, keys, names, encoded):
    coder = _build(labels, **keys)
    assert coder.names == names
    if encoded is not None:
        assert coder.encode(labels, "here") == encoded


def test_the_datas_own_class_names_are_used():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["ham", "spam"])})
    assert _build([0, 1], features=features).names == ("ham", "spam")


def test_a_checkpoints_order_is_kept():
    coder = _build(["a", "b", "c"], reorder=lambda names: ("c", "a", "b"))
    assert coder.names == ("c", "a", "b")
    assert coder.encode(["a", "b", "c"], "here") == [1, 2, 0]
    assert [coder.names[index] for index in coder.encode(["a", "b", "c"], "here")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("labels", "keys", "message"),
    [
        ([0, 1, 2], {"num_labels": 2}, r"num_labels is 2, but column label has 3: 0, 1, 2"),
        (["x", "y"], {"num_labels": 3}, r"num_labels is 3.*label_names"),
        (["x", "x"], {}, "one class only: x"),
        ([0.5, 1.0], {}, "for regression set dataset.num_labels: 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, keys, message):
    with pytest.raises(DataError, match=message):
        _build(labels, **keys)


@pytest.mark.parametrize("bad", [7, -1, None])
def test_an_unseen_label_is_named_with_its_row(bad):
    coder = _build([0, 1])
    with pytest.raises(DataError, match=rf"validation: .*{bad} \(row 2\); the classes are 0, 1"):
        coder.encode([0, 1, bad], "validation")


def test_nan_among_the_labels_is_named_with_its_row():
    labels = [0.0, float("nan"), 1.0]
    coder = _build(labels)
    with pytest.raises(DataError, match=r"nan \(row 1\)"):
        coder.encode(labels, "train")


def test_regression_takes_numbers_only():
    coder = _build([0.5, 2.0], num_labels=1)
    assert coder.is_regression
    assert coder.encode(["1.5", 2, 0.25], "train") == [1.5, 2.0, 0.25]
    for bad, message in (("high", "'high' is not a number"), (None, "None"), (float("nan"), "the label is nan")):
        with pytest.raises(DataError, match=f"train, row 1: .*{message}"):
            coder.encode([1.0, bad], "train")


def test_labels_from_one_are_said(caplog):
    with caplog.at_level(logging.INFO):
        _build([1, 2, 3])
    assert "labels start at 1" in caplog.text


def test_infinite_labels_are_refused():
    with pytest.raises(DataError, match="the label is inf"):
        _build([0.5], num_labels=1).encode([float("inf")], "train")


def test_a_class_named_twice_is_refused():
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match="names a class twice"):
        Config(path="x", label_names=["a", "b", "a"])

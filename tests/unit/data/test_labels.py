"""Labels of every kind become class ids, or an error that names the row."""

from __future__ import annotations

import logging

import pytest

from utils.core.errors import DataError
from utils.core.texts import RowError
from utils.data.labels import build_label_coder, type_labels, warn_of_similar_labels
from utils.datasets.custom import Config, describe_classification


def _build(labels, reorder=tuple, named=None, **keys):
    spec = describe_classification(Config(path="x", **keys))
    return build_label_coder(spec, {label: f"x:{row}" for row, label in enumerate(labels)}, named, reorder)


def _encode(coder, labels):
    return [coder.encode(label) for label in labels]


@pytest.mark.parametrize(
    ("labels", "keys", "names", "encoded"),
    [
        ([1, 0, 2], {}, ("0", "1", "2"), [1, 0, 2]),
        ([1, 3, 2], {}, ("1", "2", "3"), [0, 2, 1]),
        ([1, 2, 1], {"num_labels": 2}, ("1", "2"), [0, 1, 0]),
        ([0, 2, 0], {}, ("0", "1", "2"), [0, 2, 0]),
        ([0, 10**12], {}, ("0", "1000000000000"), [0, 1]),
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
        assert _encode(coder, labels) == encoded


def test_class_names_of_the_data_are_used():
    assert _build([0, 1], named=["ham", "spam"]).names == ("ham", "spam")


def test_the_checkpoints_label_order_is_kept():
    coder = _build(["a", "b", "c"], reorder=lambda names: ("c", "a", "b"))
    assert coder.names == ("c", "a", "b")
    assert _encode(coder, ["a", "b", "c"]) == [1, 2, 0]
    assert [coder.names[index] for index in _encode(coder, ["a", "b", "c"])] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("labels", "keys", "message"),
    [
        ([0, 1, 2], {"num_labels": 2}, r"num_labels is 2, but column label has 3: 0 \(x:0\), 1 \(x:1\), 2 \(x:2\)"),
        (["x", "y"], {"num_labels": 3}, r"num_labels is 3.*label_names"),
        (["x", "x"], {}, "one class only: x"),
        ([0.5, 1.0], {}, "x:0: column label holds a fraction, 0.5; for regression set dataset.num_labels: 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, keys, message):
    with pytest.raises(DataError, match=message):
        _build(labels, **keys)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (7, "7 is of no class; the classes are 0, 1"),
        (-1, "-1 is of no class"),
        (None, "has no label"),
        ("", "no label"),
    ],
)
def test_an_unseen_label_is_a_bad_row(bad, reason):
    with pytest.raises(RowError, match=reason):
        _build([0, 1]).encode(bad)


def test_nan_among_the_labels_is_a_bad_row():
    coder = _build([0.0, float("nan"), 1.0])
    assert coder.names == ("0", "1")
    with pytest.raises(RowError, match="nan is of no class"):
        coder.encode(float("nan"))


def test_regression_takes_numbers_only():
    coder = _build([0.5, 2.0], num_labels=1)
    assert coder.is_regression
    assert _encode(coder, ["1.5", 2, 0.25]) == [1.5, 2.0, 0.25]
    for bad, reason in (("high", "'high' is not a number"), (None, "has no label"), (float("nan"), "label is nan")):
        with pytest.raises(RowError, match=reason):
            coder.encode(bad)
    for bad in (float("inf"), 10**400):
        with pytest.raises(RowError, match=r"the label is inf|not a number"):
            coder.encode(bad)


@pytest.mark.parametrize(
    ("columns", "label", "expected"),
    [
        ([["1", "0"], ["2", ""]], "1", 1),
        ([["1", "0"], ["no"]], "1", "1"),
        ([["1.0", "-.5"]], "1.0", 1.0),
        ([["nan", "1"]], "nan", "nan"),
        ([["9" * 6000]], "9" * 6000, "9" * 6000),
        ([["a", ""]], "", None),
    ],
)
def test_labels_of_a_table_are_numeric_if_all_are(columns, label, expected):
    read = type_labels(columns)(label)
    assert (read, type(read)) == (expected, type(expected))


def test_a_label_that_differs_only_in_case_is_reported(caplog):
    with pytest.raises(RowError, match="'Yes ' is of no class; it differs from 'yes' in case or spaces"):
        _build(["no", "yes"]).encode("Yes ")
    warn_of_similar_labels("label", {"yes": "x:1", "no": "x:2", "Yes": "x:7", 5: "x:9"})
    assert "column label: 'yes' (x:1) and 'Yes' (x:7) differ only in case or spaces" in caplog.text


def test_a_class_that_is_a_text_and_a_number_is_refused():
    with pytest.raises(DataError, match=r"holds 1 \(x:0\) and '1' \(x:1\): write the class in one way"):
        _build([1, "1"])


def test_labels_that_start_at_one_are_reported(caplog):
    with caplog.at_level(logging.INFO):
        _build([1, 2, 3])
    assert "labels start at 1" in caplog.text


def test_a_class_named_twice_is_refused():
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match="names a class twice"):
        Config(path="x", label_names=["a", "b", "a"])

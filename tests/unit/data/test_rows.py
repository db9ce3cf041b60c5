"""Rows with their places, from every kind of file; odd ones do not break the others."""

from __future__ import annotations

import json

import pytest

from utils.data.rows import open_file, open_rows
from utils.data.sources import Source
from utils.data.texts import RowError
from utils.errors import DataError

ROWS = [{"question": f"q{n}", "answer": "a"} for n in range(7)]


def test_lines_have_their_numbers_and_empty_ones_count(write_lines):
    file = write_lines("rows.jsonl", [ROWS[0], "", ROWS[1], "   ", ROWS[2]])
    rows = open_rows(Source(str(file)), "train")
    assert list(rows) == ROWS[:3]
    assert [rows.place(index) for index in range(3)] == [f"{file}:1", f"{file}:3", f"{file}:5"]
    assert rows.column_names() == ("question", "answer")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question": "x"', "not JSON .* at column"),
        ("[1, 2]", "a list where a row"),
        ('"text"', "where a row"),
        ("[" * 100_000, "not "),
    ],
)
def test_one_odd_line_is_one_bad_row(write_lines, line, reason):
    rows = open_rows(Source(str(write_lines("rows.jsonl", [ROWS[0], line, ROWS[1]]))), "train")
    assert (rows[0], rows[2]) == (ROWS[0], ROWS[1])
    with pytest.raises(RowError, match=reason):
        rows[1]


def test_a_line_that_is_not_utf8_and_a_byte_order_mark(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": "x"}\r\n{"a": "\xff"}\r\n{"a": "y"}')
    rows = open_rows(Source(str(file)), "train")
    assert [rows[0], rows[2]] == [{"a": "x"}, {"a": "y"}]
    with pytest.raises(RowError, match="UTF-8"):
        rows[1]


def test_values_of_different_types_stand_side_by_side(write_lines):
    mixed = [{"a": "x"}, {"a": 5}, {"a": ["y"]}, {"b": None}]
    assert list(open_rows(Source(str(write_lines("rows.jsonl", mixed))), "train")) == mixed


def test_a_json_file_holds_a_list_or_lines(tmp_path):
    for name, text in (("list.json", json.dumps(ROWS, indent=1)), ("lines.json", "\n".join(map(json.dumps, ROWS)))):
        (tmp_path / name).write_text(text)
        rows = open_file(str(tmp_path / name), ())
        assert list(rows) == ROWS
        assert rows.place(2) == f"{tmp_path / name}" + (", row 2" if name == "list.json" else ":3")


@pytest.mark.parametrize(
    ("text", "message"),
    [('[{"a": 1},\n{"a": }]', r"rows.json:2: not JSON"), ('{\n "a": 1}', "holds an object"), ("[]", "no rows")],
)
def test_a_json_file_that_is_none_is_named(tmp_path, text, message):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_rows(Source(str(tmp_path / "rows.json")), "train")


def test_an_empty_file_has_no_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="holds no rows"):
        open_rows(Source(str(tmp_path / "rows.jsonl")), "train")


def test_shards_follow_each_other(tmp_path):
    for number, part in enumerate((ROWS[:3], ROWS[3:])):
        (tmp_path / f"train-0000{number}-of-00002.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    rows = open_rows(Source(str(tmp_path)), "train[2:5]")
    assert list(rows) == ROWS[2:5]
    assert rows.place(0).endswith("train-00000-of-00002.jsonl:3")
    assert rows.place(1).endswith("train-00001-of-00002.jsonl:1")


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_other_kinds_of_file_give_the_same_rows(tmp_path, kind):
    import pandas

    table = pandas.DataFrame([{"question": f"q{n}", "answer": f"0{n}"} for n in range(2500)])
    file = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        table.to_parquet(file)
    else:
        table.to_csv(file, sep="," if kind == "csv" else "\t", index=False)
    rows = open_rows(Source(str(file), text_columns=("question", "answer")), "train[1998:]")
    assert len(rows) == 502
    assert rows[3] == {"question": "q2001", "answer": "02001"}
    assert rows[0]["question"] == "q1998"
    assert rows.place(3) == f"{file}, row 2001"


def test_a_split_that_is_not_there_is_none_and_an_empty_cut_is_said(write_lines, tmp_path):
    write_lines("train.jsonl", ROWS)
    assert open_rows(Source(str(tmp_path)), "validation") is None
    with pytest.raises(DataError, match=r"train\[100:\] leaves none of 7 rows"):
        open_rows(Source(str(tmp_path)), "train[100:]")
    with pytest.raises(DataError, match="is not a split"):
        open_rows(Source(str(tmp_path)), "train[1]")
    with pytest.raises(DataError, match="no such file"):
        open_rows(Source(str(tmp_path / "none.jsonl")), "train")

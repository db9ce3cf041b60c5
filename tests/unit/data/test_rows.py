"""Rows with their line numbers from every kind of file; a malformed row does not affect the others."""

from __future__ import annotations

import json

import pytest

from utils.core.errors import DataError
from utils.core.texts import RowError, read_text
from utils.data.row_files import FileFormat
from utils.data.rows import open_file, open_rows
from utils.data.sources import Source

ROWS = [{"question": f"q{n}", "answer": "a"} for n in range(7)]


def test_line_numbers_include_empty_lines(write_lines):
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
def test_a_malformed_line_is_one_bad_row(write_lines, line, reason):
    rows = open_rows(Source(str(write_lines("rows.jsonl", [ROWS[0], line, ROWS[1]]))), "train")
    assert (rows[0], rows[2]) == (ROWS[0], ROWS[1])
    with pytest.raises(RowError, match=reason):
        rows[1]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("rows.jsonl", "[1]\n" * 3, "rows.jsonl:1: a list where a row"),
        ("rows.csv", "a,b\nx\n", "rows.csv:2: 1 fields where the header has 2"),
        ("rows.csv", "a;b\nx;y\n", "rows.csv:1: the header has no comma: 'a;b'; save the file with commas"),
    ],
)
def test_a_file_without_a_readable_row_is_rejected_for_its_first(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=reason):
        open_file(str(tmp_path / name)).column_names()


def test_a_line_that_is_not_utf8_and_a_byte_order_mark(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": "x"}\r\n{"a": "\xff"}\r\n{"a": "y"}')
    rows = open_rows(Source(str(file)), "train")
    assert [rows[0], rows[2]] == [{"a": "x"}, {"a": "y"}]
    with pytest.raises(RowError, match="UTF-8"):
        rows[1]


def test_values_of_different_types_in_one_column(write_lines):
    mixed = [{"a": "x"}, {"a": 5}, {"a": ["y"]}, {"b": None}]
    assert list(open_rows(Source(str(write_lines("rows.jsonl", mixed))), "train")) == mixed


def test_a_json_file_holds_a_list_or_lines(tmp_path):
    for name, text in (("list.json", json.dumps(ROWS, indent=1)), ("lines.json", "\n".join(map(json.dumps, ROWS)))):
        (tmp_path / name).write_text(text)
        rows = open_file(str(tmp_path / name))
        assert list(rows) == ROWS
        assert rows.place(2) == f"{tmp_path / name}" + (":10" if name == "list.json" else ":3")


@pytest.mark.parametrize(
    ("text", "message"),
    [('[{"a": 1},\n{"a": }]', r"rows.json:2: not JSON"), ('{\n "a": 1}', "holds an object"), ("[]", "no rows")],
)
def test_invalid_json_files_are_named(tmp_path, text, message):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(DataError, match=message):
        open_rows(Source(str(tmp_path / "rows.json")), "train")


def test_an_empty_file_has_no_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match="holds no rows"):
        open_rows(Source(str(tmp_path / "rows.jsonl")), "train")


def test_shards_are_read_in_order(tmp_path):
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
    rows = open_rows(Source(str(file)), "train[1998:]")
    assert len(rows) == 502
    assert rows[3] == {"question": "q2001", "answer": "02001"}
    assert rows[0]["question"] == "q1998"
    assert rows.place(3) == f"{file}" + (", row 2001" if kind == "parquet" else ":2003")


def test_a_missing_split_is_none_and_an_empty_slice_is_reported(write_lines, tmp_path):
    write_lines("train.jsonl", ROWS)
    assert open_rows(Source(str(tmp_path)), "validation") is None
    with pytest.raises(DataError, match=r"train\[100:\] leaves none of 7 rows"):
        open_rows(Source(str(tmp_path)), "train[100:]")
    with pytest.raises(DataError, match="is not a split"):
        open_rows(Source(str(tmp_path)), "train[1]")
    with pytest.raises(DataError, match="no such file"):
        open_rows(Source(str(tmp_path / "none.jsonl")), "train")


OFFICIAL = 'index\tsentence\n0\t"It is, he said.\n1\tthe 5" screen\n2\t"Yes"\n'


def test_quotes_in_a_tsv_are_literal_and_every_line_is_a_row(tmp_path, caplog):
    (tmp_path / "a.tsv").write_text(OFFICIAL)
    rows = open_file(str(tmp_path / "a.tsv"))
    assert [row["sentence"] for row in rows] == ['"It is, he said.', 'the 5" screen', '"Yes"']
    assert rows.place(2) == f"{tmp_path / 'a.tsv'}:4"
    assert "quot" not in caplog.text
    (tmp_path / "b.tsv").write_text('a\tb\n"he said ""no"""\t1\n')
    assert open_file(str(tmp_path / "b.tsv"))[0]["a"] == '"he said ""no"""'
    assert "b.tsv: 1 lines hold a field in quotes with doubled quotes in it" in caplog.text
    quoted = open_file(str(tmp_path / "a.tsv"), FileFormat(quoting=True))
    assert quoted[len(quoted) - 1] == {"index": "2", "sentence": "Yes"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a,1,2", "3 fields where the header has 2; put texts with separators in quotes"),
        ("a", "1 fields where the header has 2"),
        ("", "an empty line"),
        ("caf\udce9,1", r"not UTF-8 text \(byte 0xe9 at 4\)"),
        ("a\0,1", "a NUL byte at 2"),
        ('"a" b,1', "not a record of a table"),
    ],
)
def test_a_malformed_table_line_is_one_bad_row(tmp_path, line, reason):
    text = f'text,label\n"x\ny",0\n{line}\nz,1\n\n\n'
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    rows = open_file(str(tmp_path / "a.csv"))
    assert len(rows) == 3, "empty lines at the end are not rows"
    assert (rows[0], rows[2]) == ({"text": "x\ny", "label": "0"}, {"text": "z", "label": "1"})
    assert [rows.place(index)[-2:] for index in range(3)] == [":2", ":4", ":5"]
    with pytest.raises(RowError, match=reason):
        rows[1]


@pytest.mark.parametrize("end", ["", 'c said "hi",1\nd,0\n'])
def test_an_unclosed_quote_does_not_swallow_the_following_rows(tmp_path, end):
    (tmp_path / "a.csv").write_text('text,label\na,0\n"b,1\n' + end)
    rows = open_file(str(tmp_path / "a.csv"))
    assert len(rows) == 2 + end.count("\n"), "every line is accounted for"
    for index in range(1, 2 + end.count("c")):
        with pytest.raises(RowError, match=r"begins with a quote in line 3|not a record"):
            rows[index]
    if end:
        assert rows[3] == {"text": "d", "label": "0"}


def test_a_table_of_very_many_columns_is_handled_quickly(tmp_path):
    import time

    names = [f"c{number}" for number in range(40_000)]
    (tmp_path / "wide.csv").write_text("\n".join([",".join(names), *[",".join("x" * 40_000)] * 3]))
    started = time.monotonic()
    rows = open_file(str(tmp_path / "wide.csv"))
    assert (len(rows), len(rows.column_names()), rows[2]["c39999"]) == (3, 40_000, "x")
    with pytest.raises(RowError, match=r"c0, c1, .* and 39980 more"):
        read_text(rows[0], "text")
    assert time.monotonic() - started < 5


def test_a_pipe_is_read_once_and_completely(tmp_path):
    import os
    import threading

    pipe, content = (
        tmp_path / "rows.jsonl",
        "".join(json.dumps({"n": number, "t": "x" * 200}) + "\n" for number in range(3000)),
    )
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(content))
    writer.start()
    for _ in range(2):
        rows = open_rows(Source(str(pipe)), "train")
        assert [row["n"] for row in rows] == list(range(3000))
        assert rows.place(2999) == f"{pipe}:3000"
    writer.join()


def test_nulls_filled_in_by_arrow_are_not_values(tmp_path):
    import pandas

    turns = [
        [
            {"role": "user", "content": "2 + 3?"},
            {"role": "assistant", "tool_calls": [{"name": "add", "arguments": each}]},
        ]
        for each in ({"a": 2, "b": 3}, {"city": "Bonn"})
    ]
    pandas.DataFrame({"messages": turns, "note": [None, "x"]}).to_parquet(tmp_path / "rows.parquet")
    rows = open_rows(Source(str(tmp_path / "rows.parquet")), "train")
    assert [row["messages"] for row in rows] == turns
    assert rows[0]["note"] is None, "a separate column keeps them"
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": [{"arguments": {"a": None}}]}))
    [row] = open_rows(Source(str(tmp_path / "rows.jsonl")), "train")
    assert row["messages"] == [{"arguments": {"a": None}}], "as written"

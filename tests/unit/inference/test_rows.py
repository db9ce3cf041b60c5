"""Rows from a user's files: none is lost, and every malformed row is reported with its line."""

from __future__ import annotations

import json

import pytest

from utils.core.errors import DataError
from utils.inference.row_io import open_source, read_rows


def _read(file, stated=None):
    return list(read_rows(open_source(str(file), stated, "text")))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "good film\n\nbad\n", [{"text": "good film"}, {"text": ""}, {"text": "bad"}]),
        ("a.txt", b"\xef\xbb\xbfgood\r\nbad", [{"text": "good"}, {"text": "bad"}]),
        ("a.jsonl", '{"text": "a", "id": 7}\n\n{"text": 5}\r\n', [{"text": "a", "id": 7}, {"text": 5}]),
        ("a.json", ' [{"text": "a"},\n {"text": "b"}]', [{"text": "a"}, {"text": "b"}]),
        ("a.json", '{"text": "a"}\n{"text": "b"}', [{"text": "a"}, {"text": "b"}]),
        ("a.csv", 'id,text\n1,"a, ""b""\nc"\n', [{"id": "1", "text": 'a, "b"\nc'}]),
        ("a.csv", b"\xef\xbb\xbftext\r\nnull\r\n007\r\n\r\n", [{"text": "null"}, {"text": "007"}]),
        ("a.tsv", "text\tid\na, b\t1\n", [{"text": "a, b", "id": "1"}]),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "\xc3\xa9"}', [{"text": "\u00e9"}]),
        ("A.JSONL", '{"id": 1}\n{"id": 1}\n', [{"id": 1}, {"id": 1}]),
        ("a.txt", "w " * 500_000, [{"text": "w " * 500_000}]),
        ("a.csv", "text\n" + "w " * 500_000, [{"text": "w " * 500_000}]),
        ("a.jsonl", "", []),
        ("a.csv", "text\n", []),
    ],
    ids=lambda value: value[:20] if isinstance(value, str | bytes) else "",
)
def test_every_kind_is_read(write, name, content, expected):
    rows = _read(write(name, content))
    assert [row.row for row in rows] == expected
    assert [row.number for row in rows] == list(range(len(rows)))
    assert not any(row.error for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "place", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n\n{"text": \n{"text": "b"}\n', {"line": 3}, "not JSON (Expecting value at column"),
        (
            "a.jsonl",
            '{"text": "a"}\n[1]\n{"text": "b"}\n',
            {"line": 2},
            "a list where a row, one JSON object, was expected",
        ),
        ("a.jsonl", '{"text": "a"}\n{"x": NaN}\n{"text": "b"}', {"line": 2}, "NaN is not a JSON number"),
        ("a.jsonl", '{"text": "a"}\n{"x": 1, "x": 2}\n{"text": "b"}', {"line": 2}, "the key 'x' is given twice"),
        ("a.jsonl", '{"text": "a"}\n{"x": 1' + "0" * 5000 + '}\n{"text": "b"}', {"line": 2}, "not JSON ("),
        ("a.jsonl", b'{"text": "a"}\n{"x": "caf\xe9"}\n{"text": "b"}', {"line": 2}, "not UTF-8 text (byte 0xe9 at 11)"),
        ("a.jsonl", b'{"text": "a"}\n{"x": "\x00"}\n{"text": "b"}', {"line": 2}, "holds a NUL byte at 8"),
        ("a.jsonl", '{"text": "a"}\n' + "[" * 200_000 + '\n{"text": "b"}', {"line": 2}, "lists within lists"),
        ("a.txt", b"a\ncaf\xe9\nb", {"line": 2}, "not UTF-8"),
        ("a.txt", b"a\n\x00\nb", {"line": 2}, "NUL"),
        ("a.json", '[{"text": "a"},\n5, {"text": "b"}]', {"line": 2}, "a number where a row"),
        (
            "a.csv",
            "text,id\na,1\nx,1,2\nb,3\n",
            {"line": 3},
            "3 fields where the header has 2; put texts with separators in quotes",
        ),
        ("a.csv", b"text\na\ncaf\xe9\nb\n", {"line": 3}, "not UTF-8 text (byte 0xe9 at 4)"),
        ("a.csv", b"text\na\n\x00\nb\n", {"line": 3}, "holds a NUL byte at 1"),
        ("a.csv", b'text\n"a"\nx\ry\nb\n', {"line": 3}, "not a record of a table"),
        ("a.csv", b"text,id\na,1\n1\nb,3\n", {"line": 3}, "1 fields where the header has 2"),
        ("a.csv", b"text\na\n\nb\n", {"line": 3}, "an empty line"),
        ("a.csv", b'text\n"a\na"\ncaf\xe9\nb\n', {"line": 4}, "not UTF-8"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_bad_line_is_reported_and_the_others_are_read(write, name, content, place, message):
    rows = _read(write(name, content))
    bad = [row for row in rows if row.error]
    assert len(rows) == 3
    assert rows[0].row["text"].startswith("a")
    assert rows[2].row["text"] == "b"
    assert [(row.place, row.row) for row in bad] == [(place, {})]
    assert message in bad[0].error


def test_rows_are_read_lazily(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"text": f"w{index}" * 50}) + "\n" for index in range(20_000)))
    assert next(read_rows(open_source(str(file), None, "text"))).row["text"].startswith("w0")


def test_parquet(tmp_path):
    import pyarrow as pa
    from pyarrow.parquet import write_table

    rows = [{"text": f"w{index}", "tags": ["x"], "id": None if index else 3} for index in range(600)]
    write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    read = _read(tmp_path / "a.parquet")
    assert [row.row for row in read] == rows
    assert read[-1].place == {"row": 599}
    calls = [{"turns": [{"arguments": {"x": 1}}]}, {"turns": [{"arguments": {"y": None, "z": 2}}]}]
    write_table(pa.Table.from_pylist(calls), tmp_path / "calls.parquet")
    found = [row.row for row in _read(tmp_path / "calls.parquet")]
    assert found == [{"turns": [{"arguments": {"x": 1}}]}, {"turns": [{"arguments": {"z": 2}}]}], "as in training"
    (tmp_path / "b.parquet").write_text("no")
    with pytest.raises(DataError, match=r"b\.parquet: cannot be read as parquet"):
        _read(tmp_path / "b.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"text": [b"\xff"]}, "cannot be read as parquet: 'utf-8'"), ({"text": ["a"], "tex_": ["b"]}, "twice: text")],
)
def test_a_parquet_file_with_damaged_texts_or_repeated_columns_is_refused(tmp_path, columns, message):
    import pyarrow as pa
    from pyarrow.parquet import write_table

    arrays = [pa.array(values, pa.binary()).view(pa.string()) for values in columns.values()]
    write_table(pa.Table.from_arrays(arrays, names=["text"] * len(arrays)), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        _read(tmp_path / "a.parquet")


def test_a_parquet_file_without_rows_says_so(tmp_path):
    import pyarrow as pa
    from pyarrow.parquet import write_table

    from utils.data.sources import load_parquet

    write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="the file holds no rows"):
        load_parquet(tmp_path / "a.parquet", "a.parquet")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{\n "text": "a"\n}', "holds an object; it must hold a list of rows"),
        ("a.json", '[{"text": "a"},\n', r"a\.json:2: not JSON"),
        ("a.csv", "text,id,text\na,1,b\n", "names a column twice: text"),
        ("a.jsonl", b"\x1f\x8b\x08\x00\n", "a compressed file; unpack it first"),
    ],
)
def test_an_unreadable_file_is_refused(write, name, content, message):
    with pytest.raises(DataError, match=message):
        _read(write(name, content))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'\xef\xbb\xbf {"text": "a"}\n', {"text": "a"}),
        (b"plain\n", {"text": "plain"}),
        (b'[\n{"text": "a"}]', {"text": "a"}),
        (b"", None),
    ],
)
def test_the_format_of_standard_input_is_detected(monkeypatch, content, expected):
    import io
    import sys
    from types import SimpleNamespace

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    rows = list(read_rows(open_source(None, None, "text")))
    assert [row.row for row in rows] == ([] if expected is None else [expected])


def test_a_named_pipe_is_read_once(tmp_path):
    import os
    import threading

    os.mkfifo(tmp_path / "pipe")
    content = "".join(f'{{"n": {number}}}\n' for number in range(20_000))
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_text(content))
    writer.start()
    source = open_source(str(tmp_path / "pipe"), None, "text")
    assert next(read_rows(source)).row == {"n": 0}
    assert [row.row["n"] for row in read_rows(source)] == list(range(20_000))
    writer.join()


def test_a_given_format_overrides_the_file_name(write):
    assert _read(write("rows.log", '{"a": 1}'), "jsonl")[0].row == {"a": 1}
    assert _read(write("rows.json", '{"a": 1}'), "txt")[0].row == {"text": '{"a": 1}'}

"""Rows from a user's files, and answers beside them: nothing lost, every mistake by its line."""

from __future__ import annotations

import csv
import json

import pytest

from utils.errors import DataError, UserError
from utils.inference.rows import check_paths, read_rows, write_answers


def _write(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "good film\n\nbad\n", [{"text": "good film"}, {"text": ""}, {"text": "bad"}]),
        ("a.txt", b"\xef\xbb\xbfgood\r\nbad", [{"text": "good"}, {"text": "bad"}]),
        ("a.jsonl", '{"text": "a", "id": 7}\n\n{"text": 5}\n', [{"text": "a", "id": 7}, {"text": "5"}]),
        ("a.csv", 'id,text\n1,"a, ""b""\nc"\n', [{"id": "1", "text": 'a, "b"\nc'}]),
        ("a.csv", "text\nnull\n007\n", [{"text": "null"}, {"text": "007"}]),
        ("a.tsv", "text\tid\na, b\t1\n", [{"text": "a, b", "id": "1"}]),
        ("a.jsonl", b'\xef\xbb\xbf{"text": "\xc3\xa9"}', [{"text": "\u00e9"}]),
    ],
)
def test_every_kind_is_read(tmp_path, name, content, expected):
    assert list(read_rows(_write(tmp_path, name, content), ["text"])) == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", '{"text": "a"}\n[1]\n', r"a\.jsonl:2: a line must be one JSON object"),
        ("a.jsonl", '{"text": "a"}\n{"body": "b"}\n', r"a\.jsonl:2: no column text; there are: body"),
        ("a.jsonl", '{"text": null}', r"a\.jsonl:1: no column text"),
        ("a.csv", "body\nx\n", r"a\.csv:2: no column text; there are: body"),
        ("a.csv", "id,text\n1\n", r"a\.csv:2: no column text; there are: id$"),
        ("a.csv", "text,id\na,1,2\n", r"a\.csv:2: more fields than the header"),
        ("a.csv", b"text\ncaf\xe9\n", "not UTF-8"),
        ("a.txt", b"caf\xe9\n", "not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        list(read_rows(_write(tmp_path, name, content), ["text"]))


def test_a_very_long_text_in_a_table(tmp_path):
    text = "w1 " * 100_000
    assert next(iter(read_rows(_write(tmp_path, "a.csv", f"text\n{text}\n"), ["text"])))["text"] == text


def test_a_pair_needs_a_file_with_columns(tmp_path):
    with pytest.raises(DataError, match="rows need the columns a, b"):
        list(read_rows(_write(tmp_path, "a.txt", "x\n"), ["a", "b"]))


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("in.xlsx", "out.csv", "in.xlsx: unknown kind of file"),
        ("nowhere.csv", "out.csv", "nowhere.csv: no such file"),
        ("in.csv", "out.txt", "out.txt: unknown kind of output"),
        ("in.csv", "./sub/../in.csv", "is the input file"),
    ],
)
def test_files_are_checked_before_anything_is_loaded(tmp_path, monkeypatch, source, target, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    _write(tmp_path, "in.csv", "text\na\n")
    with pytest.raises(UserError, match=message):
        check_paths(source, target)


ROW = {"text": "a, b", "label": "yes", "probabilities": {"no": 0.25, "yes": 0.75}}


@pytest.mark.parametrize("kind", [".jsonl", ".csv", ".tsv"])
def test_answers_are_written_whole(tmp_path, kind):
    target = tmp_path / "deep" / f"out{kind}"
    with write_answers(target) as writer:
        writer.write(ROW)
        writer.write({**ROW, "truncated": True})
        assert not target.exists(), "an unfinished file has another name"
    if kind == ".jsonl":
        assert [json.loads(line) for line in target.read_text().splitlines()] == [ROW, {**ROW, "truncated": True}]
        return
    with target.open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t" if kind == ".tsv" else ","))
    assert rows[0] == {
        "text": "a, b", "label": "yes", "probability_no": "0.25", "probability_yes": "0.75", "truncated": "False",
    }  # fmt: skip
    assert rows[1]["truncated"] == "True"


def test_a_row_with_a_further_column_does_not_fit_a_table(tmp_path):
    def write():
        with write_answers(tmp_path / "out.csv") as writer:
            writer.write({"text": "a"})
            writer.write({"text": "b", "extra": 1})

    with pytest.raises(DataError, match=r"a row has the column extra, which the first row has not; write a \.jsonl"):
        write()
    assert not (tmp_path / "out.csv").exists()


def test_a_place_that_cannot_be_written(tmp_path):
    _write(tmp_path, "file", "x")
    with pytest.raises(UserError, match="cannot be written"), write_answers(tmp_path / "file" / "out.csv"):
        pass

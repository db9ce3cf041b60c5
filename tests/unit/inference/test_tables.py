"""Every kind of output holds every row and column, and no cell is a formula."""

from __future__ import annotations

import csv
import json
import logging

import pytest

from utils.core.errors import UserError
from utils.inference.partial import dump
from utils.inference.row_io import write_results
from utils.results.workbook import guard_formula

ROWS = [
    {"text": "a, b\n\"c\"", "label": "yes", "probabilities": {"no": 0.25, "yes": 0.75}},
    {"text": "=1+1", "label": "no", "probabilities": {"no": 0.5, "yes": 0.5}, "truncated": True},
    {"text": None, "error": "+bad", "line": 3},
    {"text": "-5", "tags": ["x"], "n": 1},
    {"text": "\ud800", "n": 2.5, "big": 10**30},
]  # fmt: skip


def _results():
    return map(dump, ROWS)


@pytest.mark.parametrize("kind", [".jsonl", ".json"])
def test_json(tmp_path, kind):
    target = tmp_path / "deep" / f"out{kind}"
    write_results(_results, target)
    text = target.read_text("utf-8")
    assert (json.loads(text) if kind == ".json" else [json.loads(line) for line in text.splitlines()]) == ROWS


@pytest.mark.parametrize("kind", [".csv", ".tsv"])
def test_separated(tmp_path, kind, caplog):
    write_results(_results, tmp_path / f"out{kind}")
    with (tmp_path / f"out{kind}").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t" if kind == ".tsv" else ","))
    assert list(rows[0]) == [
        "text", "label", "probability_no", "probability_yes", "truncated", "error", "line", "tags", "n", "big",
    ]  # fmt: skip
    assert [row["text"] for row in rows] == ['a, b\n"c"', "'=1+1", "", "-5", "\\ud800"]
    assert (rows[0]["probability_yes"], rows[2]["error"], rows[3]["tags"]) == ("0.75", "'+bad", '["x"]')
    assert "2 cells that a spreadsheet would read as a formula" in caplog.text


def test_spreadsheet(tmp_path, caplog):
    from openpyxl import load_workbook

    caplog.set_level(logging.WARNING)
    write_results(_results, tmp_path / "out.xlsx")
    sheet = load_workbook(tmp_path / "out.xlsx").active
    rows = list(sheet.iter_rows())
    assert [cell.value for cell in rows[0]][:3] == ["text", "label", "probability_no"]
    formula = rows[2][0]
    assert (formula.value, formula.data_type, formula.quotePrefix) == ("=1+1", "s", True)
    assert (rows[1][2].value, rows[3][0].value, rows[5][8].value) == (0.25, None, 2.5)
    assert "1 characters that a sheet cannot hold" in caplog.text


def test_parquet(tmp_path):
    from pyarrow.parquet import read_table

    write_results(_results, tmp_path / "out.parquet")
    rows = read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["n"] for row in rows] == [None, None, None, 1.0, 2.5]
    assert [row["text"] for row in rows] == ['a, b\n"c"', "=1+1", None, "-5", "\\ud800"]
    assert (rows[1]["truncated"], rows[2]["line"], rows[3]["tags"], rows[4]["big"]) == (True, 3, '["x"]', str(10**30))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("=A1", "'=A1"), ("@x", "'@x"), ("-1.5e3", "-1.5e3"), ("- item", "'- item"), ("\t1", "'\t1"), ("a=1", "a=1")],
)
def test_which_texts_are_formulas(text, expected):
    assert guard_formula(text) == expected


def test_too_many_rows_for_a_sheet_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    from utils.inference import row_io

    monkeypatch.setattr(row_io, "_SHEET_ROWS", 5)
    with pytest.raises(UserError, match="a sheet holds 4 rows, not 5"):
        write_results(_results, tmp_path / "out.xlsx")
    monkeypatch.undo()
    monkeypatch.setattr(row_io, "_SHEET_COLUMNS", 9)
    with pytest.raises(UserError, match="a sheet holds 9 columns, not 10"):
        write_results(_results, tmp_path / "out.xlsx")
    assert list(tmp_path.iterdir()) == []

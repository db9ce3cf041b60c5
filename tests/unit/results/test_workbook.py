"""The workbook opens, holds numbers as numbers, and no text in it is a formula."""

from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook

from utils.results.record import BestMetric, PeakMemory, RunRecord
from utils.results.workbook import write_workbook

EVIL = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    '=HYPERLINK("http://example.org")',
    "#DIV/0!",
    "{=1}",
]
PROVENANCE = {"versions": {"torch": "2.13.0"}, "git": {"commit": "abc", "dirty": False}}


def rows_of(path: Path, sheet: str) -> list[dict[str, Any]]:
    header, *rows = load_workbook(path)[sheet].iter_rows(values_only=True)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_results_as_numbers(record: RunRecord, tmp_path: Path) -> None:
    path = tmp_path / "results.xlsx"
    write_workbook(path, record, {"seed": 42}, PROVENANCE)
    (row,) = rows_of(path, "results")
    expected = {
        "task": "cola_qwen", "method": "lora", "seed": 42, "status": "success",
        "best metric": "matthews_correlation", "best score (%)": pytest.approx(61),
        "95% interval, low": pytest.approx(57.1), "95% interval, high": pytest.approx(64.8),
        "baseline": 0, "best step": 800, "best accuracy (%)": pytest.approx(83),
        "trainable parameters": 2182144, "total parameters": 1545896448, "trainable share (%)": 0.1412,
        "device": "cuda", "peak GPU memory (GB)": 1.31, "training time (s)": 812, "tokens/s": 5210,
        "loss": 0.41, "matthews_correlation (%), last": pytest.approx(60),
        "gsm8k em_strict (%)": pytest.approx(42), "gsm8k n": 1319, "gsm8k protocol": "zero-shot",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    sheet = load_workbook(path)["results"]
    formats = {sheet.cell(1, cell.column).value: cell.number_format for cell in sheet[2]}
    assert formats["total parameters"] == "#,##0"
    assert formats["best score (%)"] == "0.00"
    assert formats["seed"] == "0"


def test_formatting(record: RunRecord, tmp_path: Path) -> None:
    write_workbook(tmp_path / "r.xlsx", record, {"a": {"b": 1}}, PROVENANCE)
    book = load_workbook(tmp_path / "r.xlsx")
    assert book.sheetnames == ["results", "configuration", "provenance"]
    for sheet in book:
        assert sheet.freeze_panes == "A2"
        assert sheet.auto_filter.ref == sheet.dimensions
        assert all(cell.font.bold for cell in sheet[1])
        assert not any(cell.font.bold for cell in sheet[2])
    widths = book["results"].column_dimensions
    assert widths["E"].width >= len("success") + 1
    assert widths["F"].width >= len("matthews_correlation") + 2


def test_chinese_names(record: RunRecord, tmp_path: Path) -> None:
    write_workbook(tmp_path / "r.xlsx", record, {"说明": "这是一个相当长的中文说明"}, PROVENANCE, language="zh")
    (row,) = rows_of(tmp_path / "r.xlsx", "results")
    assert row["任务"] == "cola_qwen"
    assert row["最佳准确率(%)"] == pytest.approx(83)
    assert row["可训练参数占比(%)"] == 0.1412
    assert row["显存峰值(GB)"] == 1.31
    assert (row["总参数"], row["可训练参数"], row["状态"]) == (1545896448, 2182144, "成功")
    sheet = load_workbook(tmp_path / "r.xlsx")["configuration"]
    assert sheet.column_dimensions["B"].width == 2 * 12 + 2


def test_an_unmeasured_value_is_an_empty_cell(tmp_path: Path) -> None:
    record = RunRecord("failed", "t", "SEQ_CLS", "none", memory=PeakMemory("cpu", peak_rss_gb=1.0))
    write_workbook(tmp_path / "r.xlsx", record, {}, {})
    (row,) = rows_of(tmp_path / "r.xlsx", "results")
    assert row["best accuracy (%)"] is None
    assert row["peak GPU memory (GB)"] is None
    assert row["peak RAM (GB)"] == 1.0


def test_errors_are_not_multiplied_by_100(tmp_path: Path) -> None:
    record = RunRecord("success", "t", "SEQ_CLS", "none", best_metric=BestMetric("mse", 0.25, 1))
    write_workbook(tmp_path / "r.xlsx", record, {}, {})
    assert rows_of(tmp_path / "r.xlsx", "results")[0]["best value"] == 0.25


def test_texts_are_never_formulas(record: RunRecord, tmp_path: Path) -> None:
    path = tmp_path / "r.xlsx"
    config = {f"key{index}": text for index, text in enumerate(EVIL)} | {"=key": "x"}
    write_workbook(path, dataclasses.replace(record, task_name="=cmd|'/c calc'!A1"), config, PROVENANCE)
    book = load_workbook(path)
    for sheet in book:
        assert {cell.data_type for row in sheet.iter_rows() for cell in row} <= {"s", "n", "b"}
    assert book["results"]["A2"].quotePrefix
    starts = {str(row[1].value)[0]: row[1].quotePrefix for row in book["configuration"].iter_rows(min_row=2)}
    assert [starts[each] for each in "=+-@"] == [True] * 4
    assert not starts["#"]
    with zipfile.ZipFile(path) as archive:
        assert not any(b"<f>" in archive.read(name) for name in archive.namelist())


def test_values_a_sheet_cannot_hold_are_adapted(
    record: RunRecord, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {
        "control": "a\x00b\x1bc\ud800\uffff", "long": "x" * 40_000, "nan": math.nan, "inf": -math.inf,
        "huge": 12345678901234567890, "none": None, "flag": True, "list": ["q_proj", "v_proj"], "empty": {},
        "rate": 2e-5,
    }  # fmt: skip
    write_workbook(tmp_path / "r.xlsx", record, config, PROVENANCE)
    values = {row["key"]: row["value"] for row in rows_of(tmp_path / "r.xlsx", "configuration")}
    assert values == {
        "control": "abc", "long": "x" * 32_767, "nan": "nan", "inf": "-inf", "huge": "12345678901234567890",
        "none": None, "flag": True, "list": '["q_proj", "v_proj"]', "empty": "{}", "rate": 2e-5,
    }  # fmt: skip
    assert "4 characters that a sheet cannot hold" in caplog.text
    assert "1 texts were cut" in caplog.text


def test_secrets_of_the_configuration_are_hidden(record: RunRecord, tmp_path: Path) -> None:
    write_workbook(tmp_path / "r.xlsx", record, {"model": {"token": "hf_abcdef", "dtype": "auto"}}, PROVENANCE)
    rows = rows_of(tmp_path / "r.xlsx", "configuration")
    assert [row["value"] for row in rows] == ["***", "auto"]


@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed")
def test_a_spreadsheet_program_opens_it(record: RunRecord, tmp_path: Path) -> None:
    write_workbook(tmp_path / "r.xlsx", dataclasses.replace(record, task_name="=1+1"), {}, PROVENANCE)
    words = [
        "soffice",
        "--headless",
        "--convert-to",
        "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true",  # last: cells as displayed
        "--outdir",
        str(tmp_path),
        str(tmp_path / "r.xlsx"),
    ]
    subprocess.run(words, check=True, timeout=120, capture_output=True)
    shown = (tmp_path / "r.csv").read_text().splitlines()[1]
    assert shown.startswith("=1+1,")
    assert "61.00" in shown

"""Reports are rebuilt from the records: the same records give the same reports, and no file is left half-written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook

from utils.benchmark.aggregate import summarize
from utils.benchmark.outcomes import collect_outcomes
from utils.benchmark.reports import write_reports

ROOT = Path(__file__).parents[4]


def write(folder: Any, **facts: Any) -> dict[str, Path]:
    suite, outcomes = folder.facts(**facts), collect_outcomes(folder.runs)
    return write_reports(folder.path, suite, summarize(suite, outcomes), outcomes)


def test_files(folder: Any, fill: Any) -> None:
    fill(folder, ("rte", "mnli"), ("lora",), (1, 3))
    paths = write(folder)
    names = {kind: path.name for kind, path in paths.items()}
    others = {names.pop("runs"), names.pop("html")}
    assert others == {"runs.csv", "report.html"}
    assert names == {kind: f"results.{kind}" for kind in ("json", "csv", "md", "tex", "xlsx")}
    assert {each.name for each in folder.path.iterdir() if each.is_file()} == {*others, *names.values()}
    texts = {kind: paths[kind].read_bytes() for kind in ("csv", "md", "tex")}
    assert write(folder) == paths
    assert {kind: paths[kind].read_bytes() for kind in texts} == texts


def test_json(folder: Any) -> None:
    first = folder.finish(folder.plan("rte", "lora", 1), 0.7)
    folder.finish(folder.plan("rte", "lora", 3), 0.6)
    folder.fail(folder.plan("rte", "full", 1), note="killed by signal 9")
    data = json.loads(write(folder)["json"].read_text())
    lora, full = data["rows"]
    assert lora["figures"]["best"]["mean"] == pytest.approx(0.65)
    assert lora["figures"]["best"]["n"] == 2
    assert lora["runs"][0]["figures"]["loss"] == first.metrics["loss"]
    assert (full["figures"], full["runs"][0]["status"], full["runs"][0]["note"]) == ({}, "failed", "killed by signal 9")
    assert data["paired_differences"][0]["finding"] == "no claim"
    assert data["files"]["xlsx"] == "results.xlsx"


def test_a_run_that_finished_later_is_in_the_next_report(folder: Any) -> None:
    run = folder.plan("rte", "lora", 1)
    assert "| missing |" in write(folder)["md"].read_text()
    folder.finish(run, 0.7)
    assert "| 70.00 |" in write(folder)["md"].read_text()


def test_chinese_workbook(folder: Any, fill: Any) -> None:
    fill(folder, ("cola", "stsb"), ("qst",), (42,))
    newest = max((run.folder / "results.json" for run in folder.runs), key=lambda path: path.stat().st_mtime)
    paths = write(folder, language="zh", workbook="QST_GLUE_Results_{timestamp}")
    assert re.fullmatch(r"QST_GLUE_Results_\d{8}_\d{6}\.xlsx", paths["xlsx"].name)
    moment = datetime.fromtimestamp(newest.stat().st_mtime)
    assert paths["xlsx"].name == f"QST_GLUE_Results_{moment:%Y%m%d_%H%M%S}.xlsx"
    assert write(folder, language="zh", workbook="QST_GLUE_Results_{timestamp}")["xlsx"] == paths["xlsx"]
    os.utime(newest, (newest.stat().st_mtime + 60,) * 2)
    assert write(folder, language="zh", workbook="QST_GLUE_Results_{timestamp}")["xlsx"] != paths["xlsx"]
    sheet = load_workbook(paths["xlsx"])["summary"]
    assert (sheet["A1"].value, sheet["B1"].value, sheet["I1"].value) == ("任务", "最佳准确率(%)", "Matthews相关系数")
    assert (sheet["A3"].value, sheet["B3"].number_format) == ("stsb", '0.00"*"')
    assert paths["csv"].read_bytes().startswith(b"\xef\xbb\xbf")


def test_a_failed_write_keeps_the_old_report(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.finish(folder.plan("rte", "lora", 1), 0.7)
    old = write(folder)["xlsx"].read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("openpyxl.workbook.workbook.Workbook.save", fail)
    with pytest.raises(OSError, match="No space"):
        write(folder)
    assert (folder.path / "results.xlsx").read_bytes() == old
    assert not [each for each in folder.path.iterdir() if each.name.startswith(".results")]


def test_no_ml_library_is_imported() -> None:
    modules = "outcomes statistics aggregate tables text_reports workbook charts reports summary submission"
    code = f"""
import importlib, sys
for name in {modules.split()}: importlib.import_module("utils.benchmark." + name)
heavy = ("torch", "transformers", "peft", "datasets", "evaluate", "pandas", "openpyxl", "rich", "scipy")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Every cell of the workbook is a record's number; no cell is a formula; charts read the sheet's data."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openpyxl import load_workbook

from utils.benchmark.aggregate import summarize
from utils.benchmark.outcomes import collect_outcomes
from utils.benchmark.reports import write_reports

HOSTILE = "=1+1|a_b&\n\x00"
SHEETS = ["summary", "paired differences", "charts", "per run", "configuration", "provenance"]


def write(folder: Any, **facts: Any) -> Path:
    suite, outcomes = folder.facts(**facts), collect_outcomes(folder.runs)
    return write_reports(folder.path, suite, summarize(suite, outcomes), outcomes)["xlsx"]


def rows_of(path: Path, name: str) -> list[dict[str, Any]]:
    head, *rows = load_workbook(path)[name].iter_rows(values_only=True)
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_every_cell_equals_the_record(folder: Any, fill: Any) -> None:
    tasks, methods, seeds = ("mrpc", "rte", "stsb"), ("lora", "full"), (1, 3)
    records = fill(folder, tasks, methods, seeds)
    path = write(folder)
    assert load_workbook(path).sheetnames == SHEETS
    rows = rows_of(path, "per run")
    assert len(rows) == 12
    for row in rows:
        record = records[row["task"], row["method"], row["seed"]]
        metrics, own = record.metrics, record.best_metric
        shown = {
            "best accuracy (%)": 100 * metrics.get("accuracy", metrics.get("pearson")),
            "trainable share (%)": record.params.trainable_percent, "peak memory (GB)": record.memory.peak_vram_gb,
            "total parameters": record.params.total, "trainable parameters": record.params.trainable,
            "loss": metrics["loss"], "trainable share, packed (%)": record.params.trainable_percent_packed,
            "task metric": own.name, "task metric, best": 100 * own.value,
            "task metric, last": 100 * record.metrics_last[own.name],
            "95% interval, low": 100 * record.interval[own.name][0],
            "95% interval, high": 100 * record.interval[own.name][1], "interval over": "rows", "epochs": 3,
            "training time (s)": record.time.train_runtime_s, "samples/s": record.time.samples_per_s,
            "status": "success",
        }  # fmt: skip
        assert {name: row[name] for name in shown} == {
            name: pytest.approx(value) if isinstance(value, float) else value for name, value in shown.items()
        }
        others = {"F1": "f1", "Matthews": "matthews_correlation", "Pearson": "pearson", "Spearman": "spearmanr"}
        for label, name in others.items():
            assert row[label] == (pytest.approx(100 * metrics[name]) if name in metrics else None)
    for row in rows_of(path, "summary")[:6]:
        mine = [records[row["task"], row["method"], seed] for seed in seeds]
        values = 100 * np.array([record.best_metric.value for record in mine])
        assert row["mean"] == row["task metric, best"] == pytest.approx(values.mean())
        assert row["sample standard deviation"] == pytest.approx(values.std(ddof=1))
        assert (row["n (seeds)"], row["interval over"], row["status"]) == (2, "seeds", "success")
        assert row["training time (s)"] == pytest.approx(np.mean([record.time.train_runtime_s for record in mine]))
    averages = rows_of(path, "summary")[6:8]
    for row in averages:
        best = [records[task, row["method"], seed].best_metric.value for task in tasks for seed in seeds]
        assert row["task"] == "average of 3 tasks"
        assert row["mean"] == pytest.approx(100 * np.mean(best))
        assert (row["n (seeds)"], row["status"]) == (2, "6 of 6 runs")


def test_paired_differences(folder: Any, fill: Any) -> None:
    records = fill(folder, ("rte",), ("lora", "full"), (1, 2, 3))
    (row,) = rows_of(write(folder), "paired differences")
    differences = [
        records["rte", "full", seed].best_metric.value - records["rte", "lora", seed].best_metric.value
        for seed in (1, 2, 3)
    ]
    assert row["difference"] == pytest.approx(100 * np.mean(differences))
    half = 4.302653 * np.std(differences, ddof=1) / 3**0.5
    assert row["95% interval, high"] == pytest.approx(100 * (np.mean(differences) + half), rel=1e-5)
    assert (row["method"], row["compared with"], row["common seeds"], row["n (seeds)"]) == (
        "full",
        "lora",
        "1, 2, 3",
        3,
    )


def test_missing_runs(folder: Any) -> None:
    folder.finish(folder.plan("rte", "lora", 1), 0.7)
    folder.fail(folder.plan("rte", "full", 1), note="killed")
    path = write(folder)
    done, failed = rows_of(path, "summary")[:2]
    assert failed["best accuracy (%)"] == failed["task metric, best"] == failed["status"] == "failed"
    numbers = [value for value in failed.values() if isinstance(value, int | float)]
    assert numbers == []
    assert done["mean"] == pytest.approx(70)
    cells = [cell.value for row in load_workbook(path)["charts"].iter_rows() for cell in row]
    assert 0 not in cells
    assert "failed" not in cells  # a text in a chart's data would be drawn as 0


def test_formatting(folder: Any, fill: Any) -> None:
    fill(folder, ("rte", "stsb"), ("lora", "full"), (1,), "cpu")
    book = load_workbook(write(folder))
    for name in SHEETS:
        assert book[name].page_setup.orientation == "landscape"
    summary = book["summary"]
    assert (summary.freeze_panes, summary.auto_filter.ref) == ("C2", "A1:Z5")
    formats = {summary.cell(1, cell.column).value: cell.number_format for cell in summary[4]}
    assert formats["best accuracy (%)"] == '0.00"*"'
    assert formats["peak memory (GB)"] == '#,##0.00" RAM"'
    assert formats["total parameters"] == "#,##0"
    assert formats["loss"] == "0.0000"
    assert summary.column_dimensions["A"].width >= len("average of 2 tasks")


def test_charts_are_native_and_read_the_sheet(folder: Any, fill: Any) -> None:
    records = fill(folder, ("rte", "stsb"), ("lora", "full"), (1, 2))
    path = write(folder)
    bars, share, memory = load_workbook(path)["charts"]._charts
    assert [type(chart).__name__ for chart in (bars, share, memory)] == ["BarChart", "ScatterChart", "ScatterChart"]
    sheet = load_workbook(path)["charts"]

    def read(reference: str) -> list[Any]:
        cells = sheet[reference.split("!")[1].replace("$", "")]
        return [cell.value for row in (cells if isinstance(cells, tuple) else ((cells,),)) for cell in row]

    for series, method in zip(bars.series, ("lora", "full"), strict=True):
        values = np.array([[records[t, method, s].best_metric.value for s in (1, 2)] for t in ("rte", "stsb")])
        assert read(series.tx.strRef.f) == [method]
        assert read(series.val.numRef.f) == [pytest.approx(100 * each) for each in values.mean(axis=1)]
        spreads = [pytest.approx(100 * each) for each in values.std(axis=1, ddof=1)]
        assert read(series.errBars.plus.numRef.f) == spreads
    assert read(bars.series[0].cat.numRef.f) == ["rte (accuracy)", "stsb (pearson)"]
    for chart, costs in ((share, [100 * 294_912 / 22e6, 100.0]), (memory, [1.65, 1.65])):
        assert [read(series.xVal.numRef.f)[0] for series in chart.series] == [pytest.approx(each) for each in costs]
        best = [
            np.mean([records[t, m, s].best_metric.value for t in ("rte", "stsb") for s in (1, 2)])
            for m in ("lora", "full")
        ]
        assert [read(series.yVal.numRef.f)[0] for series in chart.series] == [
            pytest.approx(100 * each) for each in best
        ]


def test_many_settings_and_a_single_one(folder: Any) -> None:
    for rank in range(1, 13):
        folder.finish(folder.plan("rte", "lora", 1, {"peft.lora_r": rank}), 0.5 + rank / 100)
    bars = load_workbook(write(folder))["charts"]._charts[0]
    assert len(bars.series) == 1
    (folder.path / "one").mkdir()
    folder.runs = folder.runs[:1]
    assert load_workbook(write(folder)).sheetnames == [name for name in SHEETS if name != "paired differences"]


def test_hostile_names_are_texts(folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for seed in (1, 2):
        folder.finish(folder.plan(HOSTILE, HOSTILE, seed, {"peft.x": "=2+2"}), 0.7, warnings=[])
    folder.fail(folder.plan(HOSTILE, "@lora", 1), note="=HYPERLINK(1)")
    path = write(folder, name=HOSTILE)
    book = load_workbook(path)
    assert {cell.data_type for sheet in book for row in sheet.iter_rows() for cell in row} <= {"s", "n", "b"}
    assert book["summary"]["A2"].value == "=1+1|a_b&\n"
    with zipfile.ZipFile(path) as archive:
        sheets = [archive.read(name) for name in archive.namelist() if "worksheets" in name]
    assert not any(b"<f>" in text for text in sheets)
    assert "characters that a sheet cannot hold" in caplog.text


def test_configuration_and_provenance(folder: Any) -> None:
    settings = {"training": {"learning_rate": 1e-4}, "model": {"token": "hf_secretsecretsecret"}}
    for seed in (1, 2):
        folder.finish(folder.plan("rte", "lora", seed, **settings), 0.7)
    folder.finish(folder.plan("rte", "full", 1, **settings | {"training": {"learning_rate": 2e-5}}), 0.7)
    path = write(folder, command="python benchmark.py --config x.yaml")
    by_key = {row["key"]: row for row in rows_of(path, "configuration")}
    assert by_key["training.learning_rate"]["rte: full"] == 2e-5
    assert by_key["training.learning_rate"]["the same in all runs"] == "(varies)"
    assert by_key["dataset.name"]["the same in all runs"] == "glue"
    assert by_key["seeds"]["rte: lora"] == "1, 2"
    assert by_key["model.token"]["the same in all runs"] == "***"
    facts = {row["key"]: row for row in rows_of(path, "provenance")}
    assert facts["command"]["value"] == "python benchmark.py --config x.yaml"
    assert (facts["run versions.torch"]["value"], facts["run versions.torch"]["runs"]) == ("2.13.0", 3)
    assert facts["run started (min)"]["value"] == "2026-01-02T00:00:00Z"

"""The report of a run in any state: finished, failed, without a log, with one step."""

from __future__ import annotations

import json
from dataclasses import replace
from html import unescape

import pytest

from utils.results.exports import write_predictions
from utils.results.record import DataCounts, ParamCounts, RunRecord
from utils.runs.report import REPORT, read_logs, write_report

RECORD = RunRecord(
    status="success", task_name="tiny", task_type="SEQ_CLS", method="lora", seed=3, metrics={"accuracy": 0.75},
    headline="accuracy", interval={"accuracy": [0.5, 0.9]}, baseline={"accuracy": 0.6},
    params=ParamCounts(10, 1000, 1.0), data=DataCounts(train_rows=8), warnings=["one row is empty"],
)  # fmt: skip
LOGS = [
    {"step": 1, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-3},
    {"step": 2, "epoch": 1.0, "loss": 1.0, "learning_rate": 5e-4},
    {"step": 2, "epoch": 1.0, "eval_loss": 1.25, "eval_accuracy": 0.75},
]
HOSTILE = "<script>alert('row')</script>"


def _log(folder, logs, step=2):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": logs}))


def _write(folder, config, record=RECORD):
    written = write_report(folder, config, record, {"started": "2026-01-01T00:00:00Z", "versions": {"torch": "2"}})
    return {path.name for path in written}, unescape((folder / REPORT).read_text())


def test_a_finished_run(make_config, tmp_path):
    _log(tmp_path, LOGS)
    rows = [{"row": number, "text": HOSTILE, "label": "good", "prediction": answer}
            for number, answer in enumerate(("good", "bad", "good", "good", "bad"))]  # fmt: skip
    write_predictions(tmp_path / "eval_validation", rows)
    names, page = _write(tmp_path, make_config("bert"))
    assert names == {"report.html", "curves.csv", "curves.svg"}
    for shown in ("75.00", "50.00 .. 90.00", "majority baseline 60.00", "one row is empty", "peft.method", "torch"):
        assert shown in page, shown
    assert page.count('<svg class="chart"') == 3  # loss, scores, learning rate
    assert page.count(">wrong<") == 2  # the second row, and of the later ones the fifth
    assert HOSTILE not in (tmp_path / REPORT).read_text()
    assert 'class="tinted marked" style="--share:0.600">3<' in page
    assert (tmp_path / "curves.csv").read_text().splitlines()[-1] == "2,1.0,0.0005,1.0,0.75,1.25"


def test_a_failed_run_shows_its_error_and_the_curves_of_its_last_checkpoint(make_config, tmp_path):
    _log(tmp_path / "checkpoint-1", LOGS[:1], step=1)
    _log(tmp_path / "checkpoint-2", LOGS, step=2)
    failed = RunRecord("failed", "tiny", "SEQ_CLS", "lora", extra={"error": f"ValueError: {HOSTILE}"})
    names, page = _write(tmp_path, make_config("bert"), failed)
    assert "curves.svg" in names
    assert f"ValueError: {HOSTILE}" in page
    assert '<span class="status bad">failed</span>' in page
    assert read_logs(tmp_path) == LOGS
    (tmp_path / "trainer_state.json").write_text('{"global_step": "damaged", "log_history": []}')
    assert read_logs(tmp_path) == LOGS


@pytest.mark.parametrize("torn", [None, "{", '{"log_history": 3}', '{"log_history": [3]}'])
def test_a_run_without_a_log_has_no_curves(make_config, tmp_path, torn):
    if torn is not None:
        (tmp_path / "trainer_state.json").write_text(torn)
    names, page = _write(tmp_path, make_config("bert"), replace(RECORD, metrics={}, headline=None, warnings=[]))
    assert names == {"report.html"}
    assert "<svg" not in page


@pytest.mark.parametrize("line", ['{"row": 1, "te', "3", '{"row": 1}'])
def test_answers_end_before_an_invalid_line(make_config, tmp_path, line):
    rows = [{"row": 0, "text": "first", "label": "good", "prediction": "good"}]
    write_predictions(tmp_path / "eval_validation", rows)
    with (tmp_path / "eval_validation" / "predictions.jsonl").open("a") as file:
        file.write(line)
    _, page = _write(tmp_path, make_config("bert"))
    assert page.count("<article") == 1


def test_a_run_of_one_step_in_chinese(make_config, tmp_path):
    _log(tmp_path, LOGS[:1], step=1)
    _, page = _write(tmp_path, make_config("bert", results={"language": "zh"}))
    assert page.count("<circle") == 2  # the only points of loss and learning rate
    for shown in ("成功", "学习率", "得分", "可训练参数", 'lang="zh-CN"'):
        assert shown in page, shown


def test_without_formats_only_the_table_of_curves_is_written(make_config, tmp_path):
    _log(tmp_path, LOGS)
    written = write_report(tmp_path, make_config("bert", results={"formats": []}), RECORD, {})
    assert [path.name for path in written] == ["curves.csv"]


def test_a_picture_without_a_chinese_font_is_english(make_config, tmp_path, caplog, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("utils.results.png._CHINESE", ())
    _log(tmp_path, LOGS)
    config = make_config("bert", results={"formats": ["png"], "language": "zh"})
    write_report(tmp_path, config, RECORD, {})
    assert "no font with Chinese characters" in caplog.text
    assert not [each for each in caplog.records if "Glyph" in each.getMessage()]


def test_pictures_by_matplotlib(make_config, tmp_path):
    pytest.importorskip("matplotlib")
    _log(tmp_path, LOGS)
    write_predictions(
        tmp_path / "eval_validation", [{"row": 0, "text": "$x", "label": "$\\nothing$", "prediction": "b"}]
    )
    written = write_report(tmp_path, make_config("bert", results={"formats": ["png"]}), RECORD, {})
    pictures = [path for path in written if path.suffix == ".png"]
    assert [path.name for path in pictures] == ["curves.png", "confusion.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)

"""results.json holds what was measured, omits what was not, and is never half-written."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from utils.core.errors import UserError
from utils.core.replace_file import replace_file
from utils.results.json_file import write_json
from utils.results.record import BestMetric, ParamCounts, RunRecord, read_record, write_record

SMALL = RunRecord(status="failed", task_name="t", task_type="SEQ_CLS", method="none")


def test_layout_of_version_1(record: RunRecord) -> None:
    data = record.to_json()
    assert {name: data[name] for name in list(data)[:6]} == {
        "version": 1, "status": "success", "task_name": "cola_qwen",
        "task_type": "SEQ_CLS", "method": "lora", "seed": 42,
    }  # fmt: skip
    assert data["metrics"] == {"matthews_correlation": 0.61, "accuracy": 0.83, "loss": 0.41}
    assert data["best_metric"] == {"name": "matthews_correlation", "value": 0.61, "step": 800}
    assert data["params"] == {
        "trainable": 2182144, "total": 1545896448,
        "trainable_percent": 0.1412, "trainable_percent_packed": 0.25,
    }  # fmt: skip
    assert data["memory"] == {
        "device": "cuda", "peak_vram_gb": 1.31, "peak_vram_reserved_gb": 1.6, "peak_rss_gb": 3.2,
    }  # fmt: skip
    assert list(data["time"]) == [
        "train_runtime_s", "time_to_first_step_s", "samples_per_s", "tokens_per_s", "total_s",
    ]  # fmt: skip
    assert data["data"] == {"train_rows": 8551, "truncated_rows": 3, "dropped_rows": 0, "fingerprint": "abc"}
    assert data["config_fingerprint"] == "def"


def test_a_record_survives_a_round_trip(record: RunRecord, tmp_path: Path) -> None:
    written = dataclasses.replace(record, extra={"leakage": ["qmsum"]})
    assert write_record(tmp_path, written) == tmp_path / "results.json"
    assert read_record(tmp_path) == written
    assert read_record(tmp_path / "elsewhere") is None


def test_unmeasured_values_are_absent_and_zeros_are_kept(tmp_path: Path) -> None:
    assert set(SMALL.to_json()) == {"version", "status", "task_name", "task_type", "method"}
    assert dataclasses.replace(SMALL, params=ParamCounts(trainable=0)).to_json()["params"] == {"trainable": 0}
    write_record(tmp_path, SMALL)
    assert read_record(tmp_path) == SMALL


def test_numbers_that_are_not_finite_become_null(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    diverged = dataclasses.replace(
        SMALL, metrics={"loss": math.nan, "accuracy": np.float32(0.5)}, interval={"mse": [1.0, math.inf]}
    )
    path = write_record(tmp_path, diverged)
    data = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"not JSON: {name}"))
    assert data["metrics"] == {"loss": None, "accuracy": 0.5}
    assert "metrics.loss, interval.mse[1]" in caplog.text
    again = read_record(tmp_path)
    assert again is not None
    assert again.metrics == {"loss": None, "accuracy": 0.5}


HEAD = '"version": 1, "status": "failed", "task_name": "", "task_type": "", "method": ""'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"version": 1, "status": "succ', "not JSON"),
        ("", "not JSON"),
        ("[]", "is not a JSON object"),
        ('{"version": 2}', "a record of version 2"),
        ('{"version": 1, "status": "success"}', "lacks task_name"),
        ("{" + HEAD.replace("failed", "ok") + "}", "status 'ok'"),
        ("{" + HEAD + ', "time": 3}', "time must be"),
        ("{" + HEAD + ', "best_metric": {}}', "best_metric lacks"),
    ],
)
def test_an_invalid_record_is_refused_in_one_sentence(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=problem) as caught:
        read_record(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_unknown_keys_of_a_section_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_json(tmp_path / "results.json", {**SMALL.to_json(), "time": {"total_s": 1.0, "naps_s": 2.0}})
    read = read_record(tmp_path)
    assert read is not None
    assert read.time.total_s == 1.0
    assert "unknown keys in time are ignored: naps_s" in caplog.text


def write_half(path: Path) -> None:
    with replace_file(path) as beside:
        beside.write_text('{"version"')
        raise RuntimeError("disk")


def test_a_crash_while_writing_keeps_the_old_file(record: RunRecord, tmp_path: Path) -> None:
    write_record(tmp_path, record)
    with pytest.raises(RuntimeError, match="disk"):
        write_half(tmp_path / "results.json")
    assert read_record(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_value_unknown_to_json_is_written_as_text(tmp_path: Path) -> None:
    write_json(
        tmp_path / "a" / "x.json",
        {"path": Path("a/b"), "set": {"b", "a"}, "array": np.arange(2), "bad": "\ud800"},
    )
    data = json.loads((tmp_path / "a" / "x.json").read_text("utf-8"))
    assert {**data, "bad": ""} == {"path": "a/b", "set": ["a", "b"], "array": [0, 1], "bad": ""}


def test_a_wrong_status_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="ok"):
        dataclasses.replace(SMALL, status="ok")
    assert BestMetric("accuracy").value is None

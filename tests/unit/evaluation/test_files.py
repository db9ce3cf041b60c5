"""The predictions file survives a torn line and holds any text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from utils.evaluation.files import append_records, read_object, scan_records, write_object, write_records

ROWS = [{"row": 0, "prediction": "a\nb"}, {"row": 1, "prediction": "\u4f60 \ud800 \u2028 \u0085 \x00"}, {"row": 2}]


def _read(path: Path) -> list[dict[str, Any]]:
    return [record for _, record in scan_records(path)]


def test_records_are_appended_and_read(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    assert _read(path) == []
    append_records(path, ROWS[:2])
    append_records(path, ROWS[2:])
    assert _read(path) == ROWS
    assert path.read_text("utf-8").count("\n") == 3
    write_records(path, ROWS[1:])
    assert _read(path) == ROWS[1:]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "torn", [b'{"row": 3, "predi', b'{"row": 3}', b"\0" * 40, b'{"row": 3, \n{"row": 4}\n', b"[1]\n"]
)
def test_an_incomplete_last_line_is_removed(tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "predictions.jsonl"
    append_records(path, ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert _read(path) == ROWS
    assert path.read_bytes() == whole
    assert "truncated after its 3 complete lines" in caplog.text
    append_records(path, [{"row": 9}])
    assert _read(path) == [*ROWS, {"row": 9}]


def test_every_truncation_leaves_complete_records(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    append_records(path, ROWS)
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert _read(path) == ROWS[: whole[:end].count(b"\n")]


def test_objects(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert read_object(path) is None
    write_object(path, {"a": "\u4f60\ud800"})
    assert read_object(path) == {"a": "\u4f60\ud800"}
    path.write_text("[")
    assert read_object(path) is None
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_object(path, {"a": float("nan")})
    assert path.read_text() == "["

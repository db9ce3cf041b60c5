"""Partial output: complete lines are kept and matched to their rows; the remaining rows are answered again."""

from __future__ import annotations

import json
import logging
import random

import pytest

from utils.core.errors import UserError
from utils.inference.partial import PartialFile

IDENTITY = {"input": "a", "model": "b", "settings": [1]}


def _write(path, numbers, identity=IDENTITY):
    partial = PartialFile(path, identity)
    partial.add((number, {"n": number}) for number in numbers)
    partial.close()
    return partial


def test_answers_come_out_in_the_order_of_rows(tmp_path):
    numbers = list(range(3000))
    shuffled = [number for start in range(0, 3000, 100) for number in random.sample(numbers[start : start + 100], 100)]
    partial = _write(tmp_path / "p", shuffled)
    assert [json.loads(line)["n"] for line in partial.results()] == numbers
    assert all(number in partial for number in numbers)
    assert 3000 not in partial


@pytest.mark.parametrize("size", [1, 30, 80, 81, 99, 100])
def test_a_truncated_file_is_continued_after_its_complete_lines(tmp_path, size, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "p"
    _write(path, [1, 0, 2])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * size // 100])
    num_whole = content[: len(content) * size // 100].count(b"\n") - 1
    partial = PartialFile(path, IDENTITY)
    assert partial.num_kept == max(num_whole, 0)
    partial.add((number, {"n": number}) for number in (0, 1, 2, 3))
    partial.close()
    assert [json.loads(line)["n"] for line in partial.results()] == [0, 1, 2, 3]
    assert path.read_bytes().count(b"\n") == 5, "no answer is written twice"
    assert (f"continuing after {num_whole} answers" in caplog.text) == (num_whole > 0)


def test_output_of_different_work_is_set_aside_with_a_notice(tmp_path, caplog):
    path = tmp_path / "out.jsonl.partial.jsonl"
    _write(path, [0])
    other = PartialFile(path, {**IDENTITY, "model": "c", "settings": []})
    assert (other.num_kept, 0 in other) == (0, False)
    assert "started anew, since the answers in it are of another model and another settings" in caplog.text
    other.add([(0, {"n": 7})])
    other.close()
    assert PartialFile(path, None).num_kept == 0
    kept = [each.read_text() for each in sorted(tmp_path.glob("out.jsonl.partial.old_*.jsonl"))]
    assert ['"n": 0' in kept[0], '"n": 7' in kept[1]] == [True, True], "the second does not replace the first"


def test_symlinks_are_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine\nall mine\n")
    (tmp_path / "p.jsonl").symlink_to(precious)
    with pytest.raises(UserError, match="is a link, and no answers are written through it"):
        PartialFile(tmp_path / "p.jsonl", IDENTITY)
    assert precious.read_text() == "mine\nall mine\n"


def test_only_one_call_writes_at_a_time(tmp_path):
    first = PartialFile(tmp_path / "p", IDENTITY)
    with pytest.raises(UserError, match="another call is writing it"):
        PartialFile(tmp_path / "p", IDENTITY)
    first.close()
    PartialFile(tmp_path / "p", IDENTITY).close()


def test_a_file_removed_while_opening_is_reopened(tmp_path, monkeypatch):
    from utils.core import locks as module

    path = tmp_path / "p"
    flock, calls = module.fcntl.flock, []

    def end_in_between(file, how):
        calls.append(how)
        if len(calls) == 1:
            path.unlink()
        flock(file, how)

    monkeypatch.setattr(module.fcntl, "flock", end_in_between)
    partial = _write(path, [0, 1])
    assert len(calls) == 2
    assert [json.loads(line)["n"] for line in partial.results()] == [0, 1]


def test_a_full_disk_is_reported_and_written_lines_are_kept(tmp_path):
    import resource

    path = tmp_path / "p"
    partial = PartialFile(path, IDENTITY)
    partial.add([(0, {"n": 0})])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written: File too large; the same command continues from here"):
            partial.add([(1, {"n": 1, "text": "x" * 100})])
        partial.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = PartialFile(path, IDENTITY)
    assert again.num_kept == 1
    again.add([(1, {"n": 1})])
    again.close()
    assert [json.loads(line)["n"] for line in again.results()] == [0, 1]


def test_any_row_content_is_one_line_of_json(tmp_path):
    partial = PartialFile(tmp_path / "p", IDENTITY)
    row = {"a": "\ud800 \u2028 \n", "b": float("inf"), "c": [float("nan")], "d": b"x", "result": "}\n"}
    partial.add([(0, row)])
    partial.close()
    (line,) = partial.results()
    assert json.loads(line) == {"a": "\ud800 \u2028 \n", "b": None, "c": [None], "d": "b'x'", "result": "}\n"}

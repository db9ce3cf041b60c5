"""A batch of rows that is killed repeatedly ends like an uninterrupted one, byte for byte."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE = "examples/quickstart/base"


def _start(source: Path, target: Path) -> subprocess.Popen[str]:
    words = ["--model", BASE, "--input_file", str(source), "--output_file", str(target), "--max_new_tokens", "16"]
    return subprocess.Popen(
        [sys.executable, "inference.py", *words, "--batch_size", "4"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
        preexec_fn=_restore_interrupts,
    )  # fmt: skip


def _restore_interrupts() -> None:
    """Restore Ctrl-C, which a shell ignores in background processes and all their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _count_lines(partial: Path) -> int:
    return partial.read_bytes().count(b"\n") if partial.exists() else 0


def _wait_for_lines(process: subprocess.Popen[str], partial: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while _count_lines(partial) < number:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_two_thousand_rows_and_five_random_kills(tmp_path: Path, kind: str) -> None:
    draw = random.Random()
    things = ("boy", "girl", "dog", "car", "cat")
    source, whole, target = tmp_path / "in.jsonl", tmp_path / f"whole.{kind}", tmp_path / f"out.{kind}"
    partial = tmp_path / f"out.{kind}.partial.jsonl"
    texts = [f"A {draw.choice(things)} " * draw.randint(1, 12) for _ in range(2000)]
    source.write_text("".join(json.dumps({"id": index, "text": text}) + "\n" for index, text in enumerate(texts)))
    process = _start(source, whole)
    _wait_for_lines(process, tmp_path / f"whole.{kind}.partial.jsonl", 2)
    started = time.monotonic()
    assert process.wait(timeout=240) == 0
    seconds = time.monotonic() - started
    kept = [0]
    for _ in range(5):
        process = _start(source, target)
        _wait_for_lines(process, partial, kept[-1] + 1)
        time.sleep(draw.uniform(0, seconds / 6))
        process.kill()
        process.communicate()
        kept.append(_count_lines(partial))
    assert kept == sorted(kept), "no answer is lost"
    assert kept[-1] < 2002, "the last kill happened within the batch too"
    process = _start(source, target)
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said
    assert target.read_bytes() == whole.read_bytes()
    print(f"answers there after each kill: {kept}")


def test_a_batch_survives_an_interruption_and_a_kill(tmp_path: Path) -> None:
    draw = random.Random(11)
    source, target, whole = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    things = ("boy", "girl", "dog", "car", "cat")
    rows = [{"id": index, "text": f"A {draw.choice(things)} " * draw.randint(1, 12)} for index in range(300)]
    lines = [json.dumps(row) for row in rows]
    lines[70], lines[200] = "{", '{"id": 200}'
    source.write_text("\n".join(lines))
    partial = tmp_path / "out.jsonl.partial.jsonl"

    kept = 0
    for share, end in ((0.1, signal.SIGINT), (0.5, signal.SIGKILL)):
        process = _start(source, target)
        wanted = int(300 * (share + draw.random() * 0.2))
        _wait_for_lines(process, partial, max(wanted, kept + 1))
        if end == signal.SIGINT:
            process.send_signal(signal.SIGSTOP)  # it would end before the second call starts
            second = _start(source, target)
            said = second.communicate(timeout=60)[1]
            process.send_signal(signal.SIGCONT)
            assert "another call is writing it" in said
            assert second.returncode == 2
        process.send_signal(end)
        said = process.communicate()[1]
        if end == signal.SIGINT:
            assert process.returncode == 130, said
            assert "the same command continues" in said
            assert "Traceback" not in said
            assert all(json.loads(line) for line in partial.read_text("utf-8").splitlines())
        else:
            assert process.returncode == -end
        assert not target.exists()
        num_lines = partial.read_bytes().count(b"\n")
        assert kept < num_lines < 301
        kept = num_lines
        with partial.open("ab") as torn:  # the kill rarely hits the write itself
            torn.write(b'{"row": 7, "res')

    process = _start(source, target)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert f"continuing after {kept - 1} answers of an earlier call" in said
    assert "its last line was partially written and is removed" in said
    assert "2 of 300 rows could not be answered" in said
    process = _start(source, whole)
    assert process.communicate(timeout=120)[1].count("going on") == 0
    assert target.read_bytes() == whole.read_bytes()
    written = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert len(written) == 300
    assert [index for index, row in enumerate(written) if "error" in row] == [70, 200]
    assert not list(tmp_path.glob("*.partial*"))

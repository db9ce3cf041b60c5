"""A batch of rows that is killed again and again ends as one that was left alone, byte for byte."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = "examples/quickstart/base"


def _start(source: Path, target: Path) -> subprocess.Popen[str]:
    words = ["--model", BASE, "--input_file", str(source), "--output_file", str(target), "--max_new_tokens", "16"]
    return subprocess.Popen(
        [sys.executable, "inference.py", *words, "--batch_size", "4"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_batch_survives_kills(tmp_path: Path) -> None:
    draw = random.Random(11)
    source, target, whole = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    things = ("boy", "girl", "dog", "car", "cat")
    rows = [{"id": index, "text": f"A {draw.choice(things)} " * draw.randint(1, 12)} for index in range(300)]
    lines = [json.dumps(row) for row in rows]
    lines[70], lines[200] = "{", '{"id": 200}'
    source.write_text("\n".join(lines))
    partial = tmp_path / "out.jsonl.partial.jsonl"

    kept = 0
    for share in (0.1, 0.35, 0.6):
        process = _start(source, target)
        wanted = int(300 * (share + draw.random() * 0.2))
        deadline = time.monotonic() + 120
        while not (partial.exists() and partial.read_bytes().count(b"\n") >= max(wanted, kept + 1)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not target.exists()
        num_lines = partial.read_bytes().count(b"\n")
        assert kept < num_lines < 301
        kept = num_lines
        with partial.open("ab") as torn:  # the kill seldom falls into the write itself
            torn.write(b'{"row": 7, "res')

    process = _start(source, target)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert f"going on behind {kept - 1} answers of an earlier call" in said
    assert "its last line was not written whole and is cut off" in said
    assert "2 of 300 rows could not be answered" in said
    process = _start(source, whole)
    assert process.communicate(timeout=120)[1].count("going on") == 0
    assert target.read_bytes() == whole.read_bytes()
    written = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    assert len(written) == 300
    assert [index for index, row in enumerate(written) if "error" in row] == [70, 200]
    assert not list(tmp_path.glob("*.partial*"))

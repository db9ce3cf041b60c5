"""Progress: lines without a terminal, a live bar on one, nothing when switched off."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from utils.core import progress

ROOT = Path(__file__).parents[3]
WORK = """
import sys, time
sys.path.insert(0, {root!r})
from utils.core import progress
progress._SECONDS_BEFORE_BAR = 0.0
with progress.RowProgress("encoding train", lambda: 40, 10) as shown:
    for _ in range(3):
        shown.advance(10, 100)
        time.sleep(0.15)
print("done", file=sys.stderr)
"""


def work(**environment: str) -> str:
    """Do some work on a terminal and return what it shows."""
    main, terminal = pty.openpty()
    command = [sys.executable, "-c", WORK.format(root=str(ROOT))]
    done = subprocess.Popen(command, stderr=terminal, env={**os.environ, "COLUMNS": "120", **environment})
    os.close(terminal)
    shown = b""
    try:
        while block := os.read(main, 65536):
            shown += block
    except OSError:  # Linux raises this when no writer is left
        pass
    assert done.wait(30) == 0
    os.close(main)
    return shown.decode()


def test_a_terminal_has_a_bar_with_the_time_left() -> None:
    shown = work(TERM="xterm", TQDM_DISABLE="")
    assert "encoding train" in shown
    assert "40/40" in shown
    assert "rows/s" in shown
    assert "0:00:0" in shown
    assert shown.rstrip().endswith("done")


def test_no_bar_when_switched_off() -> None:
    assert work(TERM="xterm", TQDM_DISABLE="1").strip() == "done"


def test_lines_without_a_terminal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO):
        with progress.RowProgress("evaluating gsm8k", lambda: 100, 20) as shown:
            shown.advance(16, 900)
        with progress.RowProgress("answering", lambda: None) as shown:
            shown.advance(1_500)
        monkeypatch.setenv("RANK", "1")
        with progress.RowProgress("answering", lambda: 3) as shown:
            shown.advance(3)
    first, second = (record.message for record in caplog.records)
    assert first.startswith("evaluating gsm8k: 36 of 100 rows, ")
    assert "tokens/s, eta 0:0" in first
    assert second.startswith("answering: 1,500 rows, ")


def test_rows_are_counted_only_when_something_is_shown() -> None:
    shown = progress.RowProgress("answering", lambda: pytest.fail("rows must not be counted"))
    shown.advance(3, 30)
    shown.close()
    assert (shown.num_rows, shown.num_tokens, shown.num_done) == (3, 30, 3)

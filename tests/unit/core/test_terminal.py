"""Output holds no control codes but the program's own, and tables and progress bars still work."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest

from utils.core.secrets import learn_command
from utils.core.terminal import build_console, safe_streams, show_controls, write_data

ROOT = Path(__file__).parents[3]
CODES = "a\x1b[31mred\x1b]0;title\x07\r\x9b2J\u202eb\x7f"
SHOWN = "a\\u001b[31mred\\u001b]0;title\\u0007\\u000d\\u009b2J\\u202eb\\u007f"


def test_control_codes_are_shown_but_not_executed(capsys):
    with safe_streams():
        print(CODES)
        sys.stderr.write(f"{CODES}\n")
        write_data(f"{CODES}\n")
    printed = capsys.readouterr()
    assert printed.out == f"{SHOWN}\n" * 2
    assert printed.err == f"{SHOWN}\n"
    assert show_controls("tab\tand\nnewline, 中文 and é stay") == "tab\tand\nnewline, 中文 and é stay"


def test_rows_as_json_keep_their_values(capsys):
    row = {"text": CODES, "url": "https://me:word@example.org"}
    with safe_streams():
        write_data(json.dumps(row, ensure_ascii=False))
    assert json.loads(capsys.readouterr().out) == row


@pytest.mark.parametrize("stderr", [False, True])
def test_tables_are_sanitised_and_keep_their_colours(stderr: bool, capsys, monkeypatch):
    from rich.table import Table
    from rich.text import Text

    monkeypatch.setenv("FORCE_COLOR", "1")
    learn_command(["--password", "hunter2hunter2"])
    table = Table("name", title=CODES[:5])
    table.add_row(Text("x\x1b[2Jy hunter2hunter2", style="red"))
    with safe_streams():
        build_console(stderr).print(table)
    said = "".join(capsys.readouterr())
    assert "\x1b[31m" in said, "the table's own colour"
    assert "\x1b[2J" not in said
    assert "x\\u001b[2Jy ***" in said


def test_progress_bars_of_libraries_still_move(capsys):
    with safe_streams():
        for text in ("\r 10%", "\r 20%", "\n", "\x1b[A", "\r 30% \x1b[2J", "\r     \r", "done\rover"):
            sys.stderr.write(text)
    assert capsys.readouterr().err == "\r 10%\r 20%\n\x1b[A\r 30% \\u001b[2J\r     \rdone\\u000dover"


def test_no_code_bypasses_the_shared_console():
    """Any other console would bypass the sanitising."""
    found = []
    for file in (*ROOT.glob("*.py"), *(ROOT / "utils").rglob("*.py")):
        if file.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "Console",
                "rich.print",
                "rich.console.Console",
            ):
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert found == []

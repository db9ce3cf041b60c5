"""Files are replaced atomically, and leftovers of killed processes are removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.core.replace_file import replace_file, replace_text

KILLED = """
import os, signal, sys
from pathlib import Path
from utils.core import replace_file as module
with getattr(module, sys.argv[1])(Path(sys.argv[2])) as beside:
    (beside / "rows" if beside.is_dir() else beside).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["replace_file", "folder_beside"])
def test_the_next_write_removes_a_killed_processes_leftovers(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "a[1].json"
    replace_text(target, "whole")
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", KILLED, kind, str(target)])
        assert killed.returncode == -signal.SIGKILL
    (left,) = set(tmp_path.iterdir()) - {target}
    living = left.rename(left.with_name(f"{left.stem.rpartition('-')[0]}-{os.getppid()}.json"))
    with replace_file(target) as beside:
        assert set(tmp_path.iterdir()) == {target, living}
        beside.write_text("new")
    assert target.read_text() == "new"
    assert set(tmp_path.iterdir()) == {target, living}

"""Run a measurement in its own process, which prints its result as one line for its parent to read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_MARK = "RESULT "


def give_result(result: Any) -> None:
    """Print the result of this process."""
    print(_MARK + json.dumps(result), flush=True)


def read_result(output: str) -> Any:
    """Read the result out of what a process has printed; None where it gave none."""
    line = next((each for each in output.splitlines() if each.startswith(_MARK)), None)
    return None if line is None else json.loads(line.removeprefix(_MARK))


def run_process(words: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """Run a script by this Python and give its result; where it fails, this process ends with its last words."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return read_result(done.stdout)

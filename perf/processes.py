"""Run a measurement in its own process, which prints its result as one line for its parent to read.

A suite is run by benchmark.py, and its runs are read from their folders.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

_MARK = "RESULT "


def give_result(result: Any) -> None:
    """Print the result of this process."""
    print(_MARK + json.dumps(result), flush=True)


def read_result(output: str) -> Any:
    """Parse the result from a process's output; return None if it printed none."""
    line = next((each for each in output.splitlines() if each.startswith(_MARK)), None)
    return None if line is None else json.loads(line.removeprefix(_MARK))


def run_process(words: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """Run a script by this Python and return its result; if it fails, exit with the end of its output."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return read_result(done.stdout)


def run_in_turn(kinds: Sequence[str], repeat: int, unit: str) -> dict[str, list[dict[str, Any]]]:
    """Run this script by `--kind`, alternating the kinds, `repeat` times, and print the `unit` value of each run."""
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for kind in [*kinds] * repeat:
        runs[kind].append(run_process([*sys.argv, "--kind", kind]))
        print(f"{kind}: {runs[kind][-1][unit]:.3f} {unit}", file=sys.stderr)
    return runs


def run_suite(suite: Mapping[str, Any], folder: Path, *words: str) -> Path:
    """Run a suite by benchmark.py, one run at a time, and return the folder of its runs."""
    file = folder / "suite.yaml"
    file.write_text(json.dumps(suite), encoding="utf-8")  # JSON is YAML
    command = [str(ROOT / "benchmark.py"), "--config", str(file), "--output_dir", str(folder / "out"), "--jobs", "1"]
    run_process([*command, *words])
    return folder / "out/runs"

"""Run commands with every ML library blocked, all in one process: JSON requests in, JSON answers out.

A request is `[command, [argument, ...]]`; an answer holds the exit code and both outputs. Importing a blocked library
puts an ImportError into the answer, so that a command which needs one cannot pass.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

BLOCKED = {"torch", "transformers", "peft", "trl", "datasets", "evaluate", "pandas", "sklearn", "scipy"}
ROOT = Path(__file__).parents[2]


class Refusal(importlib.abc.Loader):
    """Loader that lets a library's source be read but refuses to execute it."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        raise ImportError(f"{spec.name} is blocked here")

    def exec_module(self, module: ModuleType) -> None:
        raise AssertionError(module)


class Blocker(importlib.abc.MetaPathFinder):
    """Meta path finder, placed first, that blocks the ML libraries."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in BLOCKED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None:
            spec.loader = Refusal()
        return spec


def open_one(script: str, words: list[str]) -> dict[str, object]:
    """Run a command as its command line would."""
    from utils.cli.command_line import run_cli

    module = importlib.import_module(script)
    out, err = StringIO(), StringIO()
    code = -1
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = run_cli(module.main, module.build(), words)
        except BaseException:  # noqa: BLE001  a traceback is what the tests look for
            traceback.print_exc()
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def run_without_ml(requests: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """Run commands in a new process with every ML library blocked and return the answers; fail if one was imported."""
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(requests), capture_output=True, text=True, cwd=ROOT, check=True
    )
    result = json.loads(done.stdout)
    assert result["imported"] == []
    answers: list[dict[str, Any]] = result["answers"]
    return answers


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.meta_path.insert(0, Blocker())
    answers = [open_one(script, words) for script, words in json.load(sys.stdin)]
    json.dump({"answers": answers, "imported": sorted(BLOCKED & sys.modules.keys())}, sys.stdout)

"""Starts train.py again and again from one process that has imported the libraries already.

Reads one JSON object a line: {"words": [...], "log": file, "environment": {...}}. Each becomes a fork that runs the
door as `python train.py WORDS` would; its process id is answered at once, its exit code when `{"wait": id}` asks.
"""

import json
import os
import runpy
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any


def start(words: list[str], log: str, environment: dict[str, str]) -> int:
    """Fork, and run train.py in the child with its output in a file."""
    if child := os.fork():
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        os.environ.update(environment)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = ["train.py", *words]
        try:
            runpy.run_path("train.py", run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001  as the interpreter itself does with what nobody has caught
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def answer(request: dict[str, Any]) -> int:
    if "wait" in request:
        return os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
    return start(request["words"], request["log"], request.get("environment", {}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    for name in ("accelerate", "datasets", "peft", "tensorboard", "torch", "transformers.trainer", "trl"):
        import_module(name)
    for line in sys.stdin:
        sys.stdout.write(f"{answer(json.loads(line))}\n")
        sys.stdout.flush()

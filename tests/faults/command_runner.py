"""Start commands repeatedly from one process that has already imported the libraries.

Reads one JSON object per line: {"words": [...], "log": file, "environment": {...}}. Each becomes a fork that runs the
command as `python train.py WORDS` would; its process id is returned at once, its exit code on `{"wait": id}`.
"script" names another command, "folder" its working directory, "limit_s" its CPU time limit in seconds;
"unprivileged" drops root's privileges.
"""

import ctypes
import json
import os
import resource
import runpy
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MORE_MEMORY = 4 * 2**30
WAITING = 4
"""Wall seconds allowed per CPU second."""


def start(request: dict[str, Any]) -> int:
    """Fork, and run the command in the child with its output in a file."""
    if child := os.fork():
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        os.environ.update(request.get("environment", {}))
        handle = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        script = request.get("script", "train.py")
        sys.argv = [script, *request["words"]]
        os.chdir(request.get("folder", ROOT))
        if "limit_s" in request:
            limit(request["limit_s"])
        if request.get("unprivileged"):
            give_up_privileges()
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001  as the interpreter itself does with what nobody has caught
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def limit(seconds: int) -> None:
    """Limit the process's resources, so that it is killed before it exhausts the machine."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY, used + MORE_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(seconds * WAITING)


def give_up_privileges() -> None:
    """Drop root's privileges over other users' files (capset, version 3: two blocks of three words)."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def answer(request: dict[str, Any]) -> int:
    if "wait" in request:
        return os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
    return start(request)


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    for name in ("accelerate", "datasets", "peft", "tensorboard", "torch", "transformers.trainer", "trl"):
        import_module(name)
    for line in sys.stdin:
        sys.stdout.write(f"{answer(json.loads(line))}\n")
        sys.stdout.flush()

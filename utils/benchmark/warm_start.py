"""Start runs by `fork` from a process that has already imported the libraries, in milliseconds. Linux only.

The process has computed nothing, has no CUDA context and ends with the suite. It forks twice and the intermediate
process exits at once, so that the kernel makes the run a child of the suite: its exit status, and its death with the
suite, are those of a process that the suite started itself. Losing the warm process affects no run.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import json
import logging
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.benchmark.child import die_with_parent
from utils.config.installed import is_installed
from utils.core.project import LIBRARY, PACKAGE, ROOT

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"

_START = "import sys; sys.path[0] = sys.argv[1]; from utils.benchmark.warm_start import main; main()"
_NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
_PR_SET_CHILD_SUBREAPER = 36
_LARGEST = 1 << 16  # bytes of a request
_TRIAL_S = 20.0
_ANSWER_S = 30.0
_LIBRARIES = ("torch", "transformers.trainer", "transformers.models.auto", "accelerate", "datasets", "sklearn.metrics")
"""Libraries that runs need and whose import does not access the GPUs."""

logger = logging.getLogger(__name__)


@dataclass
class ForkedRun:
    """A run that the kernel has made a child of this process; implements the part of `subprocess.Popen` used here."""

    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, -N for signal N; None while the run works."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


class WarmProcess:
    """A process that imports the libraries in the background, then starts runs.

    Args:
        environment: Environment of all runs except CUDA_VISIBLE_DEVICES: libraries read theirs on import.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = _without_gpu(environment)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed with this
        self._state = "importing"
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  our own interpreter
                [sys.executable, "-c", _START, str(ROOT), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def is_importing(self) -> bool:
        """Return whether it is not known yet if the process can start runs."""
        if self._state == "importing" and select.select([self._channel], [], [], 0)[0]:
            self._state = "ready" if self._receive() else "lost"
            if self._state == "lost":
                self._said.seek(0)
                why = (self._said.read().decode(errors="replace").split("\n") or [""])[-2:][0]
                logger.warning("each run imports the libraries itself, since they cannot be shared: %s", why)
        return self._state == "importing"

    def start(self, command: list[str], log: Path, environment: Mapping[str, str]) -> ForkedRun | None:
        """Start a run that writes to a log; None if it must start as a separate process."""
        if self._state != "ready" or _without_gpu(environment) != self._environment:
            return None
        gpu = environment.get(GPU_VARIABLE)
        request = {"command": command, "log": str(log.resolve()), "gpu": gpu, "directory": str(Path.cwd())}
        _adopt_orphans(True)
        try:
            self._channel.send(json.dumps(request).encode())
            answer = self._receive() if select.select([self._channel], [], [], _ANSWER_S)[0] else b""
        except OSError:
            answer = b""
        finally:
            _adopt_orphans(False)
        if not answer:
            self.close()
            return None
        return ForkedRun(int(answer))

    def close(self) -> None:
        """End the process; the runs that it has started continue."""
        self._state = "lost"
        self._channel.close()
        self._said.close()
        self._process.kill()
        self._process.wait()

    def _receive(self) -> bytes:
        try:
            return self._channel.recv(_LARGEST)
        except OSError:
            return b""


def _without_gpu(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name != GPU_VARIABLE}


def _adopt_orphans(on: bool) -> None:
    """Let the kernel make this process the parent of descendants whose own parent has ended."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(on))


def main() -> None:
    """Serve as the warm process, `python -c ... PROJECT DESCRIPTOR SUITE`; in a fork, run train.py.

    A run returns from this function instead of being called by it, in a process with the interpreter's normal exit:
    exit codes, tracebacks and exit handlers are those of `python train.py`.
    """
    descriptor, suite = int(sys.argv[2]), int(sys.argv[3])
    die_with_parent(suite)
    before = os.environ.get(_NVML_CHECK)
    os.environ[_NVML_CHECK] = "1"  # checking for a GPU would initialise CUDA, which no fork survives
    channel = socket.socket(fileno=descriptor)
    _import_libraries()
    if not _survives_fork():
        sys.exit("the imported libraries do not survive a fork")
    gc.collect()
    gc.freeze()  # otherwise garbage collection in a run would write to all shared pages
    channel.send(b"ready")
    request = _serve(channel)
    if before is None:
        del os.environ[_NVML_CHECK]
    else:
        os.environ[_NVML_CHECK] = before
    _become_run(request, channel, suite)
    runpy.run_path(sys.argv[0], run_name="__main__")


def _import_libraries() -> None:
    """Import what runs need, and, if that does not initialise CUDA, all modules of the library."""
    from utils.cli.gpus import list_gpus
    from utils.core.logs import prepare_libraries

    prepare_libraries()
    names = [*_LIBRARIES]
    # peft imports bitsandbytes, which queries each GPU.
    if not list_gpus() or not is_installed("bitsandbytes"):
        found = pkgutil.walk_packages([str(LIBRARY)], f"{PACKAGE}.")
        names += [each.name for each in found if not each.name.endswith("__main__")]
    for name in names:
        importlib.import_module(name)


def _survives_fork() -> bool:
    """Return whether a fork works: threads are not copied, and a library may wait for its threads forever."""
    if not (pid := os.fork()):
        import torch

        if torch.cuda._is_in_bad_fork():
            os._exit(1)
        torch.ones(1 << 20).mul(2).sum()  # enough for all threads
        torch.ones(512, 512) @ torch.ones(512, 512)
        os._exit(0)
    deadline = time.monotonic() + _TRIAL_S
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return False


def _serve(channel: socket.socket) -> dict[str, Any]:
    """Fork a run for each request; returns, with the request, in the run only."""
    while request := channel.recv(_LARGEST):
        if not (pid := os.fork()):
            between = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == between:
                time.sleep(0.001)
            return dict(json.loads(request))
        os.waitpid(pid, 0)
    os._exit(0)


def _become_run(request: dict[str, Any], channel: socket.socket, suite: int) -> None:
    """Take on the state of a process that the suite has started for this run."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    die_with_parent(suite)
    channel.send(str(os.getpid()).encode())  # fails if the suite stopped waiting and started the run otherwise
    channel.close()
    os.chdir(request["directory"])
    with Path(request["log"]).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if request["gpu"] is not None:
        os.environ[GPU_VARIABLE] = request["gpu"]
    sys.argv = request["command"]


@contextlib.contextmanager
def warm_process(environment: Mapping[str, str], wanted: bool) -> Iterator[WarmProcess | None]:
    """Yield a warm process if one is wanted and the platform supports it."""
    process = WarmProcess(environment) if wanted and sys.platform == "linux" else None
    try:
        yield process
    finally:
        if process is not None:
            process.close()

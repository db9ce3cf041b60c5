"""Starts runs as copies of a process that has imported the libraries once: by `fork`, in milliseconds. Linux only.

The process has computed nothing, has no CUDA context and ends with the suite. It forks twice, and what is between ends
at once, so that the kernel hands the run to the suite: how it ends, and that it dies with the suite, is then as of a
process that the suite has started itself. When the warm process is lost, no run is.
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
"""What runs need and what does not ask the GPUs."""

logger = logging.getLogger(__name__)


@dataclass
class ForkedRun:
    """A run that the kernel has made a child of this process; the part of `subprocess.Popen` that a suite uses."""

    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        """Give its exit code, -N for signal N; None while it works."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


class WarmProcess:
    """A process that imports the libraries while this one goes on, then starts runs.

    Args:
        environment: Of all runs but for CUDA_VISIBLE_DEVICES: libraries read theirs when they are imported.
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
        """Tell whether it is not known yet if it can start runs."""
        if self._state == "importing" and select.select([self._channel], [], [], 0)[0]:
            self._state = "ready" if self._receive() else "lost"
            if self._state == "lost":
                self._said.seek(0)
                why = (self._said.read().decode(errors="replace").split("\n") or [""])[-2:][0]
                logger.warning("each run imports the libraries itself, since they cannot be shared: %s", why)
        return self._state == "importing"

    def start(self, command: list[str], log: Path, environment: Mapping[str, str]) -> ForkedRun | None:
        """Start a run that writes to a log; None where it has to start as a process of its own."""
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
        """End it; the runs that it has started go on."""
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
    """Let the kernel make this process the parent of descendants whose own has ended."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(on))


def main() -> None:
    """Be the warm process, `python -c ... PROJECT DESCRIPTOR SUITE`; in a copy of it, be train.py.

    A run is what this function becomes, rather than something that it calls in a process that is left without the
    interpreter's own end: exit codes, tracebacks and what is due at exit are those of `python train.py`.
    """
    descriptor, suite = int(sys.argv[2]), int(sys.argv[3])
    die_with_parent(suite)
    before = os.environ.get(_NVML_CHECK)
    os.environ[_NVML_CHECK] = "1"  # otherwise to ask whether there is a GPU already starts CUDA, which no copy survives
    channel = socket.socket(fileno=descriptor)
    _import_libraries()
    if not _can_be_copied():
        sys.exit("what was imported does not stand being copied")
    gc.collect()
    gc.freeze()  # or each collection of garbage in a run would write to all pages that it shares
    channel.send(b"ready")
    request = _serve(channel)
    if before is None:
        del os.environ[_NVML_CHECK]
    else:
        os.environ[_NVML_CHECK] = before
    _become_run(request, channel, suite)
    runpy.run_path(sys.argv[0], run_name="__main__")


def _import_libraries() -> None:
    """Import what runs need, and where that does not start CUDA all modules of the library with what they need."""
    from utils.cli.command_line import list_gpus
    from utils.core.logs import prepare_libraries

    prepare_libraries()
    names = [*_LIBRARIES]
    # peft imports bitsandbytes, which asks each GPU what it can do.
    if not list_gpus() or not is_installed("bitsandbytes"):
        found = pkgutil.walk_packages([str(LIBRARY)], f"{PACKAGE}.")
        names += [each.name for each in found if not each.name.endswith("__main__")]
    for name in names:
        importlib.import_module(name)


def _can_be_copied() -> bool:
    """Try one copy: threads are not copied, and a library that had some waits for them for ever."""
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
    """Fork a run for each request; gives the request in the run alone."""
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
    """Take on what a process has that the suite has started for this run."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    die_with_parent(suite)
    channel.send(str(os.getpid()).encode())  # fails where the suite has waited too long and started it otherwise
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
    """Give a warm process where one is wanted and the platform has what it takes."""
    process = WarmProcess(environment) if wanted and sys.platform == "linux" else None
    try:
        yield process
    finally:
        if process is not None:
            process.close()

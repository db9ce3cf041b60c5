"""A run forked from the warm process equals one in its own process: environment, exit and results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from utils.benchmark.attempt import Slot, _start_process, start_attempt
from utils.benchmark.warm_start import ForkedRun, WarmProcess, warm_process
from utils.core.project import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")]

SEEN = """import json, os, signal, sys
import torch
signals = {name: str(signal.getsignal(getattr(signal, name))) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")}
seen = {"name": __name__, "file": __file__, "argv": sys.argv, "path": sys.path, "environment": dict(os.environ),
        "parent": os.getppid(), "leads": os.getsid(0) == os.getpid() == os.getpgid(0), "folder": os.getcwd(),
        "signals": signals, "threads": torch.get_num_threads(), "between": torch.get_num_interop_threads(),
        "terminal": sys.stdout.isatty(), "through": sys.stdout.write_through, "encoding": sys.stdout.encoding,
        "seed": torch.initial_seed() == torch.default_generator.initial_seed(), "grad": torch.is_grad_enabled(),
        "devices": torch.cuda.device_count(), "hook": sys.excepthook is sys.__excepthook__}
print(json.dumps(seen, sort_keys=True))
"""


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    own = Slot(0, num_threads=2).build_environment()
    del own["PYTEST_CURRENT_TEST"]  # it prints which one
    return own | {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def warm(environment: dict[str, str]) -> Iterator[WarmProcess]:
    with warm_process(environment, wanted=True) as process:
        assert process is not None
        deadline = time.monotonic() + 120
        while process.is_importing():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process


@pytest.fixture
def fork(warm: WarmProcess, environment: dict[str, str], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Return a function that runs a script in a forked copy and returns its exit code and log."""

    def run(code: str, *words: str) -> tuple[int, str]:
        (tmp_path / "script.py").write_text(code)
        started = warm.start([str(tmp_path / "script.py"), *words], tmp_path / "log", environment)
        assert started is not None
        return wait(started), (tmp_path / "log").read_text()

    return run


def wait(process: ForkedRun | subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 120
    while (code := process.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return code


def test_a_forked_run_sees_what_a_new_process_sees(
    fork: Callable[..., tuple[int, str]], environment: dict[str, str], tmp_path: Path
) -> None:
    code, seen = fork(SEEN, "--config", "a=b")
    assert code == 0, seen
    own = _start_process([str(tmp_path / "script.py"), "--config", "a=b"], tmp_path / "own", environment)
    assert wait(own) == 0
    mine, other = json.loads(seen), json.loads((tmp_path / "own").read_text())
    mine["path"][0] = other["path"][0]  # the folder of train.py, which is the project's for both
    for variables in (mine["environment"], other["environment"]):  # set by train.py too
        for name in set(variables) - set(environment):
            del variables[name]
    assert mine == other
    assert mine["parent"] == os.getpid()


@pytest.mark.parametrize(
    ("code", "ends", "says"),
    [
        ("raise SystemExit(75)", 75, ""),
        ("import atexit; atexit.register(print, 'at exit'); raise ValueError('mine')", 1, "ValueError: mine"),
        ("import os; os._exit(7)", 7, ""),
        ("import os; os.abort()", -6, ""),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("x = bytearray(1 << 60)", 1, "MemoryError"),
        ("import threading, time; threading.Thread(target=time.sleep, args=(0.1,)).start(); print('up')", 0, "up"),
    ],
)
def test_the_next_run_starts_however_the_last_one_ended(
    code: str, ends: int, says: str, fork: Callable[..., tuple[int, str]]
) -> None:
    found, log = fork(code)
    assert found == ends
    assert says in log
    assert ("at exit" in log) == ("atexit" in code)
    assert fork("print('next')")[0] == 0


def test_another_environment_or_a_dead_process_is_not_reused(
    warm: WarmProcess, environment: dict[str, str], tmp_path: Path
) -> None:
    command = [str(tmp_path / "script.py")]
    assert warm.start(command, tmp_path / "log", environment | {"HF_HOME": "elsewhere"}) is None
    assert warm.start(command, tmp_path / "log", environment | {"OMP_NUM_THREADS": "1"}) is None
    lost = WarmProcess(environment)
    lost._process.kill()
    while lost.is_importing():
        time.sleep(0.01)
    assert lost.start(command, tmp_path / "log", environment) is None
    lost.close()


def test_a_forked_run_sees_the_gpus_of_its_slot(warm: WarmProcess, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
    started = warm.start(
        [str(tmp_path / "script.py")], tmp_path / "log", environment | {"CUDA_VISIBLE_DEVICES": "GPU-3"}
    )
    assert started is not None
    assert wait(started) == 0
    assert (tmp_path / "log").read_text() == "GPU-3\n"


def test_a_forked_run_ends_with_the_same_weights(
    warm: WarmProcess, environment: dict[str, str], plan_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    runs = plan_of("tasks: {a: {}, b: {}}\n").runs
    written = []
    for run, by in zip(runs, (warm, None), strict=True):
        attempt = start_attempt(run, Slot(0), None, warm=by)
        assert attempt is not None
        assert isinstance(attempt.process, ForkedRun) == (by is not None)
        wait(attempt.process)
        state = attempt.poll()
        assert state is not None
        assert state.status == "success", run.log.read_text()
        record = json.loads((run.folder / "results.json").read_text())
        names = ("metrics", "metrics_last", "params", "check")
        weights = (run.folder / "final_model" / "adapter_model.safetensors").read_bytes()
        written.append((weights, {name: record.get(name) for name in names}))
    assert written[0] == written[1]


def test_a_process_that_used_threads_is_not_forked() -> None:
    code = (
        "import sys; sys.path[0] = sys.argv[1]; import torch; torch.set_num_threads(2); torch.ones(1 << 20).mul(2)\n"
        "from utils.benchmark import warm_start; warm_start._TRIAL_S = 2.0; sys.exit(warm_start._survives_fork())"
    )
    assert subprocess.run([sys.executable, "-c", code, str(ROOT)], check=False).returncode == 0

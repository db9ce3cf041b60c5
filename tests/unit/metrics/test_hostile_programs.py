"""Hostile programs: none harms the machine, and only the last ones pass their tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from utils.metrics import pass_at_k
from utils.metrics.pass_at_k import build_program, run_programs

WRONG = "def f(): return 0\n"
REFERENCE = {"before": "", "tests": "def check(c):\n    assert c() == 1\ncheck(f)"}
DAEMON = f"lorans{os.getpid()}"[:15]
NAMED = f"import ctypes, os, time\nctypes.CDLL(None).prctl(15, b'{DAEMON}', 0, 0, 0)\n"


@dataclass(frozen=True)
class Hostile:
    """A program: what it attempts, its source, and how it has to end."""

    name: str
    program: str
    result: str
    guard: str = ""
    """Guards that the system needs for it: users, mounts, processes, network or files."""


QUICK = (
    Hostile("takes 1 TiB of memory", "x = bytearray(1 << 40)", "failed: MemoryError"),
    Hostile("takes memory bit by bit", "x = []\nwhile True: x.append(bytearray(1 << 26))", "failed: MemoryError"),
    Hostile("writes a file outside", "open('{folder}/new', 'w')", "failed: ", "files"),
    Hostile("reads a file of yours", "open('{folder}/mine').read()", "failed: ", "files"),
    Hostile("deletes a file of yours", "import os; os.remove('{folder}/mine')", "failed: ", "files"),
    Hostile("changes the rights of a file", "import os; os.chmod('{folder}/mine', 0)", "failed: ", "mounts"),
    Hostile("fills the disk by one file", "open('x', 'wb').write(bytes(1 << 25))", "failed: OSError: [Errno 27]"),
    Hostile("fills the disk by many", "for n in range(9999): open(str(n), 'w')",
            "failed: OSError: [Errno 28]", "mounts"),
    Hostile("connects by TCP", "import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
            "failed: ", "network"),
    Hostile("sends by UDP", "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', {port}))",
            "failed: ", "network"),
    Hostile("connects to a socket file", "import socket; socket.socket(1).connect('{folder}/socket')",
            "failed: ", "mounts"),
    Hostile("kills its parent", "import os; os.kill(os.getppid(), 9)", "failed: PermissionError", "processes"),
    Hostile("kills all processes", "import os; os.kill(-1, 9)", "failed: ProcessLookupError", "processes"),
    Hostile("starts 1000 threads", "import threading, time\nfor _ in range(1000): threading.Thread(target=time.sleep, "
            "args=(9,)).start()", "failed: RuntimeError: can't start new thread", "users"),
    Hostile("forks until it may not", "import os, time\nfor _ in range(1000):\n    if not os.fork(): time.sleep(9)",
            "failed: BlockingIOError", "users"),
    Hostile("leaves a daemon behind",
            f"{NAMED}if not os.fork():\n    os.setsid()\n    if not os.fork(): time.sleep(60)\n"
            "    os._exit(0)\nos.wait()", "failed: AssertionError"),
    Hostile("leaves zombies behind", "import os\nfor _ in range(3):\n    if not os.fork(): os._exit(0)",
            "failed: AssertionError"),
    Hostile("calls sys.exit(0) before its tests", "import sys; sys.exit(0)", "failed: SystemExit"),
    Hostile("calls os._exit(0) before its tests", "import os; os._exit(0)", "ended early"),
    Hostile("becomes another program", "import os; os.execv('/bin/true', ['true'])", "ended early"),
    Hostile("crashes the interpreter", "import ctypes; ctypes.string_at(0)", "ended early"),
    Hostile("replaces AssertionError", "import builtins; builtins.AssertionError = type('E', (SystemExit,), {{}})",
            "failed: AssertionError"),
    Hostile("replaces what its result is written by",
            "import os; w = os.write; os.write = lambda to, text: w(to, b'passed')", "failed: AssertionError"),
    Hostile("replaces its tests", "def check(c): pass", "failed: AssertionError"),
    Hostile("recurses without end", "def g(): g()\ng()", "failed: RecursionError"),
    Hostile("asks for input", "input()", "failed: UnsupportedOperation"),
    Hostile("makes itself root", "import os; os.setuid(0); open('/etc/shadow').read()", "failed: ", "files"),
    Hostile("mounts the disk again", "import ctypes\nif ctypes.CDLL(None).mount(b'none', b'/', None, 0x20, None): "
            "raise OSError('no')", "failed: OSError: no"),
)  # fmt: skip
SLOW = (
    Hostile("forks without end", "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "timed out"),
    Hostile("writes without end", "while True: print('x' * 4096)", "timed out"),
    Hostile("sleeps", "import time; time.sleep(60)", "timed out"),
    Hostile("ignores signals",
            "import signal\nfor n in (1, 2, 14, 15): signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
            "timed out"),
    Hostile("holds the word back in a child", "import os, time\nif os.fork(): os._exit(0)\ntime.sleep(60)",
            "ended early"),
)  # fmt: skip
PASSING = (
    Hostile("equals everything", "class A:\n    def __eq__(self, other): return True\ndef f(): return A()", "passed"),
    Hostile("writes the word itself", "import os; os.write(3, b'passed'); os._exit(0)", "passed"),
)


@pytest.fixture(scope="module")
def missing() -> list[str]:
    """Return the guards that this system lacks."""
    limits = [f"{name}={value}" for name, value in pass_at_k._LIMITS.items()]
    words = [sys.executable, "-I", str(Path(pass_at_k.__file__).with_name("sandbox.py")), *limits]
    done = subprocess.run(words, input="", capture_output=True, text=True, check=True)
    missing, result = done.stdout.split("\n")
    assert result == "passed"
    return missing.split(",")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """Yield a folder with a file and a socket that programs must not reach, and the port of a running server."""
    monkeypatch.setattr(pass_at_k._Consent, "given", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("mine")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind("socket")  # a short name: a socket's is limited
        local.listen()
        yield {"folder": tmp_path, "port": server.getsockname()[1]}


def check(hostile: tuple[Hostile, ...], place: dict[str, object], missing: list[str]) -> None:
    asked = [each for each in hostile if each.guard not in missing]
    texts = [each.program.format(**place) if "{" in each.program else each.program for each in asked]
    found = run_programs([build_program(f"{WRONG}{text}\n", REFERENCE) for text in texts])
    wrong = {each.name: result for each, result in zip(asked, found, strict=True) if not result.startswith(each.result)}
    assert not wrong
    folder = Path(str(place["folder"]))
    assert sorted(path.name for path in folder.iterdir()) == ["mine", "socket"]
    assert (folder / "mine").read_text() == "mine"
    assert (folder / "mine").stat().st_mode & 0o777
    names = [path.read_text() for path in Path("/proc").glob("[0-9]*/comm") if path.exists()]
    assert not [name for name in names if name.strip() == DAEMON]


def test_hostile_programs_are_contained(
    place: dict[str, object], missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pass_at_k._LIMITS, "seconds", 25.0)  # long enough for a busy machine
    check(QUICK, place, missing)


@pytest.mark.slow
def test_endless_programs_are_stopped(place: dict[str, object], missing: list[str]) -> None:
    check(SLOW, place, missing)


def test_known_ways_to_pass_by_cheating(place: dict[str, object], missing: list[str]) -> None:
    """Tests and program share a process, as docs/security.md says."""
    check(PASSING, place, missing)


def test_the_security_page_lists_all_of_them() -> None:
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text("utf-8")
    for each in (*QUICK, *SLOW, *PASSING):
        assert f"| {each.name} |" in page, each.name


def test_a_program_sees_no_environment_variables(place: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    [result] = run_programs(["import os\nassert set(os.environ) <= {'OMP_NUM_THREADS', 'PATH', 'LC_ALL'}, os.environ"])
    assert result == "passed"

"""Runs one untrusted program and reports how it ended: a standalone script that imports nothing of ours.

It reads the program from standard input, and its limits from arguments: seconds=3 memory=BYTES file_size=BYTES
processes=8. It writes a line with the guards that this system lacks, and the result: `passed`, `timed out`, `failed:
...` or `ended early`. The working folder must be empty. docs/security.md describes what each guard prevents, and what
remains without it.
"""

import contextlib
import ctypes
import io
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE = {"users": 0x10000000, "mounts": 0x00020000, "ipc": 0x08000000, "processes": 0x20000000, "network": 0x40000000}
_MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 442, 444, 445, 446
_CAPSET = {"x86_64": 126, "aarch64": 91}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
_READ = 0b1101
"""Landlock's rights to execute a file, read a file and list a folder."""
_RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}
"""All rights on folders by Landlock's version."""
_FROM_5 = 0xFFFF
_FILE_RIGHTS = 0b111 | 1 << 14 | 1 << 15
_NOBODY = 65534
_HIDDEN = ("/run", "/dev/shm", "/tmp", "/var/tmp")  # noqa: S108 - sockets and files of others
_READABLE = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def main() -> None:
    """Run the program of standard input in a child process, and kill everything that it leaves behind."""
    limits = {name: float(value) for name, value in (word.split("=") for word in sys.argv[1:])}
    program = sys.stdin.buffer.read()
    _system("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _system("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # background processes of the program become our children
    missing = _leave_namespaces()
    verdict, told = os.pipe()
    child = os.fork()
    if not child:
        os.close(verdict)
        _run_first(program, limits, told, missing)
    os.close(told)
    result = _wait(verdict, limits["seconds"])
    _end_all(child)
    sys.stdout.buffer.write(",".join(missing).encode() + b"\n" + result)


def _system(name: str, *words: Any) -> int:
    """Call a function of the C library; return -1 if it fails or does not exist."""
    call = getattr(_LIBC, name, None)
    return -1 if call is None else int(call(*words))


def _leave_namespaces() -> list[str]:
    """Leave the system's namespaces, and return the names of guards that are not available here."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        with contextlib.suppress(OSError, AttributeError):  # root is exempt from RLIMIT_NPROC
            os.setresuid(_NOBODY, -1, -1)
    if _system("unshare", sum(_CLONE.values())) == 0:
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny", "utf-8")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1", "utf-8")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1", "utf-8")
        missing = []
    else:  # root may leave single namespaces even where others may leave none
        missing = [name for name, flag in _CLONE.items() if name == "users" or _system("unshare", flag) != 0]
    if "mounts" not in missing and not _close_mounts():
        missing.append("mounts")
    return [*missing, *([] if landlock_version() else ["files"])]


def _close_mounts() -> bool:
    """Make every file system read-only except a small one in the working folder; hide others' sockets and files."""
    folder = os.getcwd()  # noqa: PTH109 - as written, with its links
    read_only = (ctypes.c_uint64 * 4)(0x1 | 0x2, 0, 0, 0)  # and no setuid
    if _system("mount", b"none", b"/", None, 0x4000 | 0x40000, None):  # private to us, recursively
        return False
    if _system("syscall", _MOUNT_SETATTR, -100, b"/", 0x8000, ctypes.byref(read_only), 32):
        return False
    done = all(_mount_small(each) for each in _HIDDEN if not Path(each).is_symlink() and Path(each).is_dir())
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103 - it may be inside a hidden folder
    done &= _mount_small(folder)
    os.chdir(folder)
    return done


def _mount_small(folder: str) -> bool:
    return _system("mount", b"tmpfs", folder.encode(), b"tmpfs", 0x2 | 0x4, b"size=16m,nr_inodes=1k") == 0


def _run_first(program: bytes, limits: dict[str, float], told: int, missing: list[str]) -> None:
    """Run as the first process of the namespace, whose end kills all others; a second process runs the program."""
    _system("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setsid()
    if "processes" in missing:
        _guard(limits, told)
        _run(program)
    child = os.fork()
    if not child:
        _guard(limits, told)
        _run(program)
    os.close(told)
    while True:  # also reaps orphans
        try:
            ended, _ = os.wait()
        except ChildProcessError:
            os._exit(0)
        if ended == child:
            os._exit(0)


def _guard(limits: dict[str, float], told: int) -> None:
    """Drop all rights and apply the limits to this process."""
    nothing = os.open(os.devnull, os.O_WRONLY)  # cannot be read: input() fails, as in the official evaluator
    for standard in range(3):
        os.dup2(nothing, standard)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, "w"))
    os.dup2(told, 3)
    os.closerange(4, 4096)
    kinds = {
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_FSIZE: limits["file_size"],
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: limits["seconds"] + 2,
    }
    _system("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _confine()
    for kind, most in kinds.items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (int(most), int(most)))
    header, empty = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _system("syscall", _CAPSET.get(os.uname().machine, -1), ctypes.byref(header), ctypes.byref(empty))


def landlock_version() -> int:
    """Return the kernel's version of Landlock, or 0 if it has none."""
    return max(_system("syscall", _LANDLOCK_CREATE, None, 0, 1), 0) if sys.platform == "linux" else 0


def _confine() -> None:
    """Restrict access to reading the interpreter and system libraries, and writing in the working folder (Landlock).

    Also no TCP from version 4 on, and no signals to processes outside from version 6 on.
    """
    version = landlock_version()
    if not version:
        return
    rights = _RIGHTS.get(version, _FROM_5)
    attributes = (ctypes.c_uint64 * 3)(rights, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = _system("syscall", _LANDLOCK_CREATE, ctypes.byref(attributes), size, 0)
    readable = {*_READABLE, *sys.path, sys.prefix, sys.base_prefix}
    for path, allowed in (*((each, _READ) for each in readable), *((each, 0b110) for each in _DEVICES), (".", rights)):
        with contextlib.suppress(OSError):
            place = os.open(path or ".", os.O_PATH)
            kept = allowed & rights if Path(path).is_dir() else allowed & rights & _FILE_RIGHTS
            rule = kept.to_bytes(8, "little") + place.to_bytes(4, "little")
            _system("syscall", _LANDLOCK_ADD, rules, 1, rule, 0)
            os.close(place)
    _system("syscall", _LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def _run(program: bytes) -> None:
    """Run the program and report how it ended; nothing is reported if it ends this process."""
    write, leave, caught = os.write, os._exit, BaseException  # before the program can replace them
    try:
        exec(compile(program.decode(), "<program>", "exec"), {})  # noqa: S102 - the purpose of this script
        said = "passed"
    except caught as error:
        said = f"failed: {type(error).__name__}: {error}"[:200]
    write(3, said.encode("utf-8", errors="replace"))
    leave(0)


def _wait(verdict: int, seconds: float) -> bytes:
    """Wait for the program's report, its end, or the time limit."""
    ready, _, _ = select.select([verdict], [], [], seconds)
    return (os.read(verdict, 1024) or b"ended early") if ready else b"timed out"


def _end_all(child: int) -> None:
    """Kill the process, its group, and the orphans that became our children."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(child, signal.SIGKILL)
    for _ in range(1000):
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        for each in _children():
            with contextlib.suppress(OSError):
                os.kill(each, signal.SIGKILL)
        time.sleep(0.001)


def _children() -> Iterator[int]:
    for each in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, each.read_text().split())


if __name__ == "__main__":
    main()

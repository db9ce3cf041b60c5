"""Exec a run that dies with the suite: `python child.py PARENT train.py --config ...`, PARENT the suite's process id.

`python child.py PARENT - srun ...` execs a command other than Python.

On Linux the kernel kills the run when the suite ends for any reason; the setting survives the exec. On other systems a
run continues if its suite is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends; exit if it has already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the suite ended before the run began")


def main() -> None:
    """Restore the default handling of Ctrl-C, and exec the run."""
    parent, *command = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background suite may have inherited ignored SIGINT
    die_with_parent(int(parent))
    if command[0] == "-":
        os.execvp(command[1], command[1:])  # noqa: S606  from the suite's file, or the job's script
    os.execv(sys.executable, [sys.executable, *command])  # noqa: S606  our own interpreter


if __name__ == "__main__":
    main()

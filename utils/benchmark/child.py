"""Becomes a run that dies with the suite: `python child.py PARENT train.py --config ...`, PARENT the suite's process.

`python child.py PARENT - srun ...` becomes another command than Python's.

On Linux the kernel kills the run when the suite is gone, however that came about; the wish outlives the exec.
Elsewhere a run whose suite is killed by force goes on to its own end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends; end it where that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the suite ended before the run began")


def main() -> None:
    """Take Ctrl-C as usual, and become the run."""
    parent, *command = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a suite in the background may have been started deaf to it
    die_with_parent(int(parent))
    if command[0] == "-":
        os.execvp(command[1], command[1:])  # noqa: S606  what the suite's file, or its job's script, names
    os.execv(sys.executable, [sys.executable, *command])  # noqa: S606  our own interpreter


if __name__ == "__main__":
    main()

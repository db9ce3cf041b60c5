"""Becomes a run that dies with the suite: `python child.py PARENT train.py --config ...`, PARENT the suite's process.

On Linux the kernel kills the run when the suite is gone, however that came about; the wish outlives the exec.
Elsewhere a run whose suite is killed by force goes on to its own end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the kernel's signal, take Ctrl-C as usual, and become the run."""
    parent, *command = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a suite in the background may have been started deaf to it
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the suite ended before the run began")
    os.execv(sys.executable, [sys.executable, *command])  # noqa: S606  our own interpreter


if __name__ == "__main__":
    main()

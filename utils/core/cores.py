"""Count the CPU cores that this process may use."""

from __future__ import annotations

import os


def count_cores() -> int:
    """Count the cores of this process's CPU affinity, or of the machine where there is none."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

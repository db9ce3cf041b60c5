"""Stops code that may loop forever, in whatever thread it runs."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STEP_S = 0.5

_deadlines: dict[int, float] = {}  # deadline by thread
_lock = threading.Lock()
_watcher: threading.Thread | None = None


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Limit the block's running time, give or take half a second; one limit per thread at a time.

    It stops loops in Python, such as those of a Jinja template, but not the inside of a compiled function.

    Raises:
        TimeoutError: The time is up.
    """
    global _watcher
    with _lock:
        _deadlines[threading.get_ident()] = time.monotonic() + seconds
        if _watcher is None or not _watcher.is_alive():  # a forked process has no watcher thread
            _watcher = threading.Thread(target=_watch, daemon=True)
            _watcher.start()
    try:
        yield
    finally:
        with _lock:
            _deadlines.pop(threading.get_ident(), None)


def _watch() -> None:
    global _watcher
    idle = 0
    while True:
        time.sleep(_STEP_S)
        with _lock:
            idle = 0 if _deadlines else idle + 1
            if idle > 2:
                _watcher = None
                return
            for thread in [each for each, end in _deadlines.items() if time.monotonic() > end]:
                del _deadlines[thread]
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeoutError))

"""Signals that stop a run: deferred while it trains or scores, otherwise immediate; a second one kills it.

Only the standard library is used, so that signals are handled before slow imports.
"""

from __future__ import annotations

import errno
import os
import signal
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from utils.core.errors import EXIT_INTERRUPTED, EXIT_REQUEUE
from utils.core.logs import is_main_process

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU)

_ECHO_S = 2.0
"""A launcher duplicates signals: the scheduler signals every process, and torchrun forwards its own signal too."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and stops at a safe point; a KeyboardInterrupt, so that no library catches it.

    Args:
        number: The signal, or None if another process received it.
    """

    def __init__(self, number: int | None = None) -> None:
        super().__init__(signal.Signals(number).name if number else "another process was asked to stop")
        self.exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_REQUEUE


class _Listener:
    """The first signal received, and whether handling is deferred."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.depth = 0
        self._since = 0.0

    def handle_signal(self, number: int, _: FrameType | None) -> None:
        """Record the first signal, raising at once unless deferred; end the process on the second."""
        name = signal.Signals(number).name
        if number == signal.SIGHUP:
            leave_terminal()
        if self.asked is not None:
            if number == signal.SIGHUP:
                return  # sent by both terminal and shell, and after a SIGTERM at the end of a session
            if "LOCAL_RANK" not in os.environ or time.monotonic() - self._since > _ECHO_S:
                _end_at_once(f"{name} again: ended at once", self.asked)
            return
        self.asked, self._since = number, time.monotonic()
        if not self.depth:
            raise Interrupted(number)
        _say(f"{name}: the run saves what it has at the next step or batch, then ends; a second signal ends it at once")


_listener = _Listener()


def interruption_requested() -> bool:
    """Return whether this process was asked to stop; long loops check this between batches."""
    return _listener.asked is not None


def raise_if_interrupted() -> NoReturn:
    """Raise Interrupted with the signal that this process received, or None if another process did."""
    raise Interrupted(_listener.asked)


@contextmanager
def handling_signals() -> Iterator[None]:
    """Handle SIGNALS inside the context; without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        with handling(SIGNALS, _listener.handle_signal):
            yield
    finally:
        _listener.asked = None


@contextmanager
def handling(
    numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None] | int
) -> Iterator[None]:
    """Handle signals with another handler for the duration of the context; an ignored SIGHUP (nohup) stays ignored."""
    deaf = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    before: dict[int, Any] = {number: signal.signal(number, handler) for number in numbers if number not in deaf}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def deferred() -> Iterator[None]:
    """Defer signals, so that the code inside can poll `interruption_requested` and stop at a safe point.

    Raises:
        Interrupted: A signal arrived before, or arrived and was not handled by the code inside.
    """
    if _listener.asked is not None:
        raise_if_interrupted()
    _listener.depth += 1
    try:
        yield
    finally:
        _listener.depth -= 1
    if _listener.asked is not None:
        raise_if_interrupted()


def leave_terminal() -> None:
    """Redirect output to /dev/null if the terminal is gone, since a failed write would end the run before saving."""
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _end_at_once(text: str, number: int) -> NoReturn:
    _say(text)
    os._exit(Interrupted(number).exit_code)


def _say(text: str) -> None:
    """Write directly to the file descriptor, since a handler may interrupt a print."""
    if is_main_process():
        os.write(2, f"\n{text}\n".encode())

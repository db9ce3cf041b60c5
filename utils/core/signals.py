"""Signals that ask a run to stop: noted while it trains or scores, obeyed at once elsewhere; a second one ends it.

The standard library only: it listens before anything heavy is imported.
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

Handler = Callable[[int, FrameType | None], None] | signal.Handlers

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)

_ECHO_S = 2.0
"""Under a launcher a signal comes twice: a scheduler sends it to every process, and torchrun passes it on."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, and does so where nothing is lost; as a KeyboardInterrupt, no library swallows it.

    Args:
        number: The signal; None in a process that learned of it from another one.
    """

    def __init__(self, number: int | None = None) -> None:
        super().__init__(signal.Signals(number).name if number else "another process was asked to stop")
        self.exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_REQUEUE


class _Listener:
    """What this process was asked, and whether it is obeyed at once."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.depth = 0
        self._since = 0.0

    def handle_signal(self, number: int, _: FrameType | None) -> None:
        """Note the first signal, or obey it; end the process at the second."""
        name = signal.Signals(number).name
        if number == signal.SIGHUP:
            leave_terminal()
        if self.asked is not None:
            if number == signal.SIGHUP:
                return  # it comes from the terminal and from the shell, and behind a SIGTERM at the end of a session
            if "LOCAL_RANK" not in os.environ or time.monotonic() - self._since > _ECHO_S:
                _end_at_once(f"{name} again: ended at once", self.asked)
            return
        self.asked, self._since = number, time.monotonic()
        if not self.depth:
            raise Interrupted(number)
        _say(f"{name}: the run saves what it has at the next step or batch, then ends; a second signal ends it at once")


_listener = _Listener()


def interruption_requested() -> bool:
    """Tell whether this process was asked to stop; loops that may take long ask it between two batches."""
    return _listener.asked is not None


def raise_if_interrupted() -> NoReturn:
    """Raise Interrupted, for the signal that came to this process or, where none did, to another one."""
    raise Interrupted(_listener.asked)


@contextmanager
def handling_signals() -> Iterator[None]:
    """Take SIGTERM, SIGUSR1, SIGINT and SIGHUP: at once, unless inside `deferred`. Only a main thread can."""
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
    """Handle signals in one's own way for a while; SIGHUP not where it is ignored, as under nohup."""
    deaf = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    before: dict[int, Any] = {number: signal.signal(number, handler) for number in numbers if number not in deaf}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextmanager
def deferred() -> Iterator[None]:
    """Let whoever works inside ask `interruption_requested` and stop where nothing is lost.

    Raises:
        Interrupted: A signal came before, or came and nobody inside has obeyed it.
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
    """Write nowhere from here on where the terminal is gone: a failed write would end the run before it is saved."""
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
    """Write past Python's buffers: a handler may run in the middle of a print."""
    if is_main_process():
        os.write(2, f"\n{text}\n".encode())

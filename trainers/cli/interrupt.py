"""Ctrl-C and SIGTERM: one line and exit code 130 or 143, from the first line of a program on.

While modules are imported, an exception could be swallowed or reported with a traceback, so the process ends at once.
Later, `KeyboardInterrupt` unwinds the program, which keeps what a run has finished.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Let the signals end the process at once while the block runs, unless it ignores them."""
    with _handled_by(_end):
        yield


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Let the signals raise `KeyboardInterrupt` while the block runs.

    It has the signal's number. Signals that the process ignores stay ignored.
    """
    with _handled_by(_raise):
        yield


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return
    for number, previous in before.items():
        if previous != signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"stopped by {signal.Signals(number).name}: nothing was started\n".encode())
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def exit_code(stop: KeyboardInterrupt) -> int:
    """Report how a program was stopped on stderr; return its exit code."""
    number = stop.args[0] if stop.args else signal.SIGINT
    sys.stderr.write(
        f"stopped by {signal.Signals(number).name}: the same command resumes after the last whole epoch, and finished runs "
        "stay finished\n"
    )
    return 128 + number

"""SIGTERM, which batch systems, containers and `kill` send, as the interruption that Ctrl-C is.

Only the command line takes it so: a program that imports isthmus keeps its own handler.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AT_ONCE = 1.0
"""Seconds in which a second SIGTERM is the same one: `timeout` sends it to a process and then to
its group.
"""


class Terminated(KeyboardInterrupt):
    """SIGTERM ended the run: a KeyboardInterrupt, so that all that heeds Ctrl-C heeds it."""


@contextmanager
def terminable() -> Iterator[None]:
    """Run a block in which SIGTERM raises Terminated; then the handler is what it was before, or
    none where the block has begun to `ignore` it.

    It stays what it was where the process ignores SIGTERM or has a handler of its own, outside the
    main thread, and in all ranks of a launch but the first: they write nothing, and end at once.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    plain = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not (in_main_thread and plain and os.environ.get("RANK", "0") in ("", "0")):
        yield
        return
    raising = _Raising()
    signal.signal(signal.SIGTERM, raising)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is raising:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Raising:
    """The handler: raises Terminated, in the process that took it alone."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.last = -AT_ONCE

    def __call__(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self.process:  # a worker that was forked ends as it would without us
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        if now - self.last >= AT_ONCE:
            self.last = now
            raise Terminated


def ignore(error: KeyboardInterrupt) -> None:
    """Let a second signal of the kind that ended the run change nothing until the process ends."""
    signal.signal(signal_of(error), signal.SIG_IGN)


def signal_of(error: KeyboardInterrupt) -> signal.Signals:
    """Return the signal that ended the run."""
    return signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT

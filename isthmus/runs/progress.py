"""Progress of long work on standard error. Silent until the command line shows it.

On a terminal there is a bar: done, rate, remaining time. Elsewhere (a log file, a batch system)
there are plain lines: about one for each tenth of the work or each half minute, and ever fewer as
the run gets longer, a few dozen in all.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

FIRST_PAUSE = 2.0
"""Seconds between two lines of a log at the least; a tenth of the run so far if that is more."""

LONGEST_SILENCE = 30.0
"""Seconds after which a line is due before another tenth of the work is done."""


class Log:
    """Lines for work that runs without a terminal, written by `write` at times read from `clock`.

    One log serves all the work of a run, so that many short parts do not write many lines.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.write = write
        self.clock = clock
        self.began = clock()
        self.last: float | None = None
        self.announced = ""

    def begin(self) -> None:
        """Write the line that was announced, once."""
        if self.announced:
            self.write(f"isthmus: {self.announced}")
            self.announced = ""

    def due(self, *, tenth: bool) -> bool:
        """Return whether another line is due, given whether a `tenth` of the work is done."""
        now = self.clock()
        if self.last is None:
            return True
        pause = max(FIRST_PAUSE, (now - self.began) / 10)
        silence = now - self.last
        return silence >= pause and (tenth or silence >= LONGEST_SILENCE)

    @contextmanager
    def part(self, label: str, total: int, done: int) -> Iterator[Callable[[str], None]]:
        """Yield a function to call once per unit of work, as `bar` does."""
        began = self.clock()
        before = done
        told = 10 * done // max(total, 1)

        def advance(note: str = "") -> None:
            nonlocal done, told
            self.begin()
            done += 1
            tenths = 10 * done // max(total, 1)
            if self.due(tenth=tenths > told or done == before + 1):
                told = tenths
                left = (self.clock() - began) / (done - before) * (total - done)
                words = [f"{label}: {done:,} of {total:,}", f"about {duration(left)} left", note]
                self._tell(", ".join(word for word in words if word))

        yield advance

    def _tell(self, line: str) -> None:
        self.last = self.clock()
        self.write(f"isthmus: {line}")


def duration(seconds: float) -> str:
    """Return seconds as minutes and seconds, or hours and minutes.

    >>> duration(75.2), duration(5400)
    ('1:15 min', '1:30 h')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


_shown: ContextVar[Log | None] = ContextVar("progress is shown", default=None)


def announce(line: str, *, now: bool = False) -> None:
    """Write a line on standard error, where progress is shown, once for all processes.

    It is written `now`, or when the first piece of the next long work is done: input that is
    refused before that leaves no line.
    """
    from isthmus.runs.processes import ranks

    log = _shown.get()
    if log is not None and ranks().first:
        log.announced = line
        if now:
            log.begin()


def _write_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def shown() -> Iterator[None]:
    """Show the progress of all work within the block on standard error."""
    token = _shown.set(Log(_write_line))
    try:
        yield
    finally:
        _shown.reset(token)


@contextmanager
def bar(label: str, total: int, done: int = 0) -> Iterator[Callable[[str], None]]:
    """Yield a function to call once per unit of work, with a short note on how it goes.

    Under `torchrun` the first process alone shows it.
    """
    from isthmus.runs.processes import ranks

    log = _shown.get()
    if log is None or not ranks().first:
        yield _silent
    elif not sys.stderr.isatty():
        with log.part(label, total, done) as tell:
            yield tell
    else:
        with _columns() as progress:
            task = progress.add_task(label, total=total, completed=done, note="")

            def advance(note: str = "") -> None:
                log.begin()
                progress.update(task, advance=1, note=note)

            yield advance


def _silent(note: str = "") -> None:
    """Show nothing."""


def _columns() -> Progress:
    """Return a bar that vanishes when it is done. Labels and notes are text and not markup."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Speed(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True, markup=False, emoji=False, highlight=False),
        transient=True,
    )

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
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

FIRST_PAUSE = 2.0
"""Seconds between two lines of a log at the least; a tenth of the run so far if that is more."""

LONGEST_SILENCE = 30.0
"""Seconds after which a line is due before another tenth of the work is done."""


class Advance(Protocol):
    """A function to call as work is done."""

    def __call__(self, note: str = "", by: int = 1) -> None:
        """Tell that `by` more units are done, with a short note on how it goes."""


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
    def part(self, label: str, total: int, done: int) -> Iterator[Advance]:
        """Yield a function to call as work is done, as `bar` does."""
        began = self.clock()
        before = done
        told = 10 * done // max(total, 1)
        first = True

        def advance(note: str = "", by: int = 1) -> None:
            nonlocal done, told, first
            self.begin()
            done += by
            tenths = 10 * done // max(total, 1)
            begun, first = first, False
            if self.due(tenth=tenths > told or begun):
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


def begin() -> None:
    """Write the line that was announced now that work which shows no progress has begun."""
    log = _shown.get()
    if log is not None:
        log.begin()


_is_open: ContextVar[bool] = ContextVar("a bar is open", default=False)


@contextmanager
def bar(label: str, total: int, done: int = 0) -> Iterator[Advance]:
    """Yield a function to call as work is done: once per unit, or with a number of units.

    Work that is a part of other work which has a bar shows none. Under `torchrun` the first process
    alone shows it.
    """
    from isthmus.runs.processes import ranks

    log = _shown.get()
    if log is None or _is_open.get() or not ranks().first:
        yield _silent
        return
    token = _is_open.set(True)
    try:
        if not sys.stderr.isatty():
            with log.part(label, total, done) as tell:
                yield tell
        else:
            with _columns() as progress:
                task = progress.add_task(label, total=total, completed=done, note="")

                def advance(note: str = "", by: int = 1) -> None:
                    log.begin()
                    progress.update(task, advance=by, note=note)

                yield advance
    finally:
        _is_open.reset(token)


def _silent(note: str = "", by: int = 1) -> None:
    """Show nothing."""


class Gauge:
    """How much of the work on samples is done, as those see it who do it, at any depth of calls.

    Samples come in batches. A sample is done when it needs no more work, at the latest when it has
    cost `cost`, in any unit; `advance` is told of whole samples.
    """

    def __init__(self, cost: float, advance: Advance) -> None:
        self._cost = cost
        self._advance = advance
        self._told = 0
        self._before = 0
        self._size = 0
        self._spent = 0.0

    @contextmanager
    def batch(self, size: int) -> Iterator[None]:
        """Run a block that works on `size` samples; within another one it changes nothing."""
        if self._size:
            yield
            return
        self._size, self._spent = size, 0.0
        try:
            yield
        finally:
            self._before += size
            self._size = 0
        self.reach(self._before)

    def look(self, standing: int, cost: float) -> None:
        """Note that every sample of the batch which is not done has cost this much more, and that
        `standing` of them are left.
        """
        self._spent += cost
        left = standing * (1 - self._spent / self._cost) if self._cost else standing
        self.reach(self._before + self._size - max(0.0, left))

    def reach(self, done: float) -> None:
        """Tell of the samples up to this number; what was told before stays."""
        new = int(done) - self._told
        if new > 0:
            self._told += new
            self._advance(by=new)


_gauge: ContextVar[Gauge | None] = ContextVar("the gauge of the work around", default=None)


def gauge() -> Gauge | None:
    """Return the gauge of the work around, None where nothing shows it."""
    return _gauge.get()


@contextmanager
def gauged(label: str, total: int, cost: float) -> Iterator[Gauge]:
    """Run a block whose work on `total` samples, each of which costs `cost` at the most, is shown
    as its `gauge` says.
    """
    with bar(label, total) as advance:
        meter = Gauge(cost, advance)
        token = _gauge.set(None if advance is _silent else meter)
        try:
            yield meter
        finally:
            _gauge.reset(token)


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

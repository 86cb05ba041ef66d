"""Progress of long work on standard error: done, rate, remaining time. Silent until the command
line shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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

_shown: ContextVar[bool] = ContextVar("progress is shown", default=False)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


@contextmanager
def shown() -> Iterator[None]:
    """Show the progress of all work within the block, where standard error is a terminal."""
    token = _shown.set(True)
    try:
        yield
    finally:
        _shown.reset(token)


@contextmanager
def bar(label: str, total: int, done: int = 0) -> Iterator[Callable[[str], None]]:
    """Yield a function to call once per unit of work, with a short note on how it goes."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not (_shown.get() and console.is_terminal),
    ) as all_:
        task = all_.add_task(label, total=total, completed=done, note="")

        def advance(note: str = "") -> None:
            all_.update(task, advance=1, note=note)

        yield advance

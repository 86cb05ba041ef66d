"""Text on a terminal, whatever the terminal can show: characters it lacks, tables it cannot fit.

What users name (files, classes, triggers) is printed as it is and never read as markup.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, NoReturn

from isthmus.types import BadInput

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_NEAREST = str.maketrans(
    "\u00a0\u2009\u2013\u2014\u2212\u2026\u00d7\u00b7\u2022\u00b1\u2016\u2081\u00b2\u03bb"
    "\u2264\u2265\u2192\u2018\u2019\u201c\u201d",
    "  ---.x.*~|12l<>>''\"\"",
)
"""Stand-ins for spaces, dashes, quotes and signs, of the same width to keep columns straight."""


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    nearest = lacking.translate(_NEAREST)
    return nearest.encode("ascii", "replace").decode("ascii"), error.end


def write_any_text() -> None:
    """Let standard output and error replace the characters that they cannot encode."""
    codecs.register_error("isthmus", _replace)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a stream in memory has none
        if reconfigure is not None:
            reconfigure(errors="isthmus")


def lines_in() -> Iterator[str]:
    """Yield the lines of standard input as they come, without the white space around them.

    Names of files may hold any bytes. Raises BadInput where standard input is closed.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise BadInput(
            "standard input that is closed", expected="names of files", fix="pipe them in"
        )
    reconfigure = getattr(sys.stdin, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="surrogateescape")
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


@contextmanager
def flushed() -> Iterator[None]:
    """Run a block, and write what it printed before it ends, also where it chose a status.

    A full disk or a reader that has left shows here and not after `main`.
    """
    try:
        yield
    except SystemExit:
        _flush(sys.stdout)
        raise
    _flush(sys.stdout)


def _flush(stream: IO[str] | None) -> None:
    if stream is not None:  # where it was closed from the start
        stream.flush()


def leave(status: int, line: str | None = None) -> NoReturn:
    """Leave the process with a status, after a line on standard error.

    What a stream still holds and cannot be written is dropped, or Python would try it again at its
    end and complain.
    """
    if line is not None:
        with suppress(OSError):
            print(f"isthmus: {line}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            _flush(stream)
        except OSError:
            with suppress(OSError):  # a stream in memory has no number
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def console(file: IO[str] | None = None) -> Console:
    """Return a console that prints text as it is: no markup, no emoji codes, no coloring of
    numbers.
    """
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise  # what rich caught, for `main`

    return Plain(file=file, markup=False, emoji=False, highlight=False)


def write(content: Any) -> None:
    """Print a text or a table to standard output.

    A table that is too wide becomes one row per measure; a text is broken into lines only for a
    terminal, so that a path stays whole in a file.
    """
    from rich.table import Table

    out = console()
    if isinstance(content, Table):
        out.print(fitted(content, out.width))
    else:
        out.print(content, soft_wrap=not out.is_terminal)


def fitted(table: Table, width: int) -> Table:
    """Return the table if no cell but those of its first column has to be broken at this width,
    else one row for each of its values.
    """
    from rich.measure import Measurement

    wide = console()
    wide.width = 10_000
    head, *others = table.columns
    lines = [line for cell in (head.header, *head.cells) for line in str(cell).splitlines() or [""]]
    longest_line = max(len(line) for line in lines)
    longest_word = max(len(word) for line in lines for word in line.split(" "))
    needed = Measurement.get(wide, wide.options, table).maximum - longest_line + longest_word
    if needed > width:
        return _by_value(table)
    for column in others:
        column.no_wrap = True
    return table


def _by_value(table: Table) -> Table:
    """Return a table of three columns, name, measure and value, with the content of a wider one."""
    from rich.table import Table

    head, *others = table.columns
    long = Table(
        title=table.title,
        caption=table.caption,
        caption_justify=table.caption_justify,
        box=table.box,
        show_edge=table.show_edge,
    )
    for header in (head.header, "", ""):
        long.add_column(header)
    rows = zip(head.cells, *(column.cells for column in others), strict=True)
    for name, *values in rows:
        for i, (column, value) in enumerate(zip(others, values, strict=True)):
            long.add_row("" if i else name, column.header, value)
    return long

"""Tables for a terminal and for Markdown, each spelled in one place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text


def terminal_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    title: str = "",
    caption: str = "",
    texts: int = 1,
) -> Table:
    """Return a table for a terminal; the first `texts` columns hold text, the others numbers."""
    table = Table(
        title=Text(title) if title else None,
        caption=Text(caption) if caption else None,
        caption_justify="left",
        box=SIMPLE,
        show_edge=False,
    )
    for i, head in enumerate(heads):
        table.add_column(Text(head), justify="left" if i < texts else "right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False
) -> list[str]:
    """Return the lines of a table in GitHub's flavor; with `numbers`, all columns but the first
    are set flush right.

    >>> print("\\n".join(markdown_table(["t", "accuracy"], [["0.1", "91 %"]])))
    | t | accuracy |
    |---|---|
    | 0.1 | 91 % |
    """
    other = "---:|" if numbers else "---|"
    rule = "|---|" + other * (len(heads) - 1)
    return [_row(heads), rule, *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""Notices: what a user should know before work starts, although the input is not wrong.

In Python a notice is a warning; on the command line it is one line on standard error.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class Notice(UserWarning):
    """What the library wants to be known about the input or the result."""


def notice(text: str) -> None:
    """Tell the caller's caller something, once for each place and text."""
    warnings.warn(text, Notice, stacklevel=3)


@contextmanager
def plain_notices() -> Iterator[None]:
    """Run a block in which notices are lines on standard error, as the command line prints them.

    What libraries tell programmers of changes to come is not shown, unless Python was told to.
    """
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore", FutureWarning)
        show = warnings.showwarning

        def line(message: Warning | str, category: type[Warning], *place: object) -> None:
            if issubclass(category, Notice):
                print(f"isthmus: {message}", file=sys.stderr)
            else:
                show(message, category, *place)  # type: ignore[arg-type]

        warnings.showwarning = line  # type: ignore[assignment]
        yield

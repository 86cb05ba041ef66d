"""How much of the budget a running `fit` has spent, for losses that change on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_share: ContextVar[float] = ContextVar("share of the budget spent", default=1.0)


def budget_share() -> float:
    """Return the share of its steps that the running `fit` has taken, in [0, 1); 1 outside of one.

    A resumed run sees what the uninterrupted one saw.
    """
    return _share.get()


@contextmanager
def at_share(share: float) -> Iterator[None]:
    """Run a block in which `budget_share` returns this."""
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)

"""Learning rate schedules: the rate as a function of the share of steps done."""

from __future__ import annotations

from collections.abc import Callable

Schedule = Callable[[float], float]
"""Share of the budget that is spent, in [0, 1), to a factor on the learning rate."""


def garipov(spent: float) -> float:
    """Return 1 for the first half, a line down to 0.01 until 0.9, then 0.01 (Garipov et al.,
    train.py).

    >>> [round(garipov(a), 3) for a in (0.0, 0.5, 0.7, 0.95)]
    [1.0, 1.0, 0.505, 0.01]
    """
    if spent <= 0.5:
        return 1.0
    if spent <= 0.9:
        return 1 - 0.99 * (spent - 0.5) / 0.4
    return 0.01


def one_cycle(spent: float) -> float:
    """Return a line from 0 up to 1 over the first 15 %, then a line down to 0: for training from
    scratch.
    """
    return spent / 0.15 if spent < 0.15 else (1 - spent) / 0.85


def constant(spent: float) -> float:
    """Return 1."""
    return 1.0

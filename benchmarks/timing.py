"""Paired timing: the candidates take turns, so that a machine whose speed drifts is fair to all of
them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping


def in_turns(
    candidates: Mapping[str, Callable[[], float]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Return the times that each candidate reports, one a round; every other round runs them in
    reverse order.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(warmup + rounds):
        for name in list(candidates) if i % 2 else reversed(list(candidates)):
            took = candidates[name]()
            if i >= warmup:
                seconds[name].append(took)
    return seconds


def ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Return the median of the paired ratios, the ends of their middle half, and the ratio of the
    fastest calls.
    """
    low, median, high = statistics.quantiles(
        [a / b for a, b in zip(numerator, denominator, strict=True)], n=4
    )
    return {
        "median": median,
        "q25": low,
        "q75": high,
        "of fastest": min(numerator) / min(denominator),
    }

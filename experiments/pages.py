"""What the tables of the results pages have in common: cells over seeds, and groups of jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student


def ranged(shares: Sequence[float], digits: int = 2) -> str:
    """Return mean [least, most], in percent: the value alone where there is one, "" for none."""
    if not shares:
        return ""
    middle, low, high = (
        f"{100 * share:.{digits}f}" for share in (fmean(shares), min(shares), max(shares))
    )
    return f"{middle} [{low}, {high}]" if len(shares) > 1 else middle


def paired(first: Sequence[float], second: Sequence[float], digits: int = 1) -> str:
    """Return first minus second in points with the 95 % interval of Student's t, paired by seed.

    Bold where the interval lies on one side of 0; the difference alone where there is one pair, ""
    for none.

    >>> paired([0.5, 0.6, 0.7], [0.4, 0.45, 0.6])
    '**11.7 ± 7.2**'
    """
    points = [100 * (a - b) for a, b in zip(first, second, strict=True)]
    if len(points) < 2:
        return f"{points[0]:.{digits}f}" if points else ""
    half = float(student.ppf(0.975, len(points) - 1)) * stdev(points) / sqrt(len(points))
    text = f"{fmean(points):.{digits}f} ± {half:.{digits}f}"
    return f"**{text}**" if abs(fmean(points)) > half else text


def medians(values: Sequence[float], digits: int = 3) -> str:
    """Return median (least to most)."""
    middle = sorted(values)[len(values) // 2]
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def grouped(jobs: Iterable[dict[str, Any]], *names: str) -> dict[Any, list[dict[str, Any]]]:
    """Return the jobs by their values of these entries, in the order in which these appear."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for job in jobs:
        groups.setdefault(tuple(job[name] for name in names), []).append(job)
    return groups

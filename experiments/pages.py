"""What the tables of the results pages have in common: cells over seeds, and groups of jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any


def ranged(shares: Sequence[float], digits: int = 2) -> str:
    """Return mean [least, most], in percent: the value alone where there is one, "" for none."""
    if not shares:
        return ""
    middle, low, high = (
        f"{100 * share:.{digits}f}" for share in (fmean(shares), min(shares), max(shares))
    )
    return f"{middle} [{low}, {high}]" if len(shares) > 1 else middle


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

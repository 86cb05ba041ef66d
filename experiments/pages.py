"""What the tables of the results pages have in common: cells over seeds, and groups of jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import Any, TypeVar

from scipy.stats import t as student

T = TypeVar("T")


def ranged(shares: Sequence[float], digits: int = 2) -> str:
    """Return mean [least, most], in percent: the value alone where there is one, "" for none."""
    if not shares:
        return ""
    middle, low, high = (
        f"{100 * share:.{digits}f}" for share in (fmean(shares), min(shares), max(shares))
    )
    return f"{middle} [{low}, {high}]" if len(shares) > 1 else middle


def paired(
    first: Sequence[float], second: Sequence[float], digits: int = 1, comparisons: int = 1
) -> str:
    """Return first minus second in points with the 95 % interval of Student's t, of pairs.

    Of several `comparisons` that are read together the intervals are as wide as Bonferroni asks.
    Bold where the interval lies on one side of 0; the difference alone where there is one pair, ""
    for none.

    >>> paired([0.5, 0.6, 0.7], [0.4, 0.45, 0.6])
    '**11.7 ± 7.2**'
    """
    points = [100 * (a - b) for a, b in zip(first, second, strict=True)]
    if len(points) < 2:
        return f"{points[0]:.{digits}f}" if points else ""
    half = (
        float(student.ppf(1 - 0.025 / comparisons, len(points) - 1))
        * stdev(points)
        / sqrt(len(points))
    )
    text = f"{fmean(points):.{digits}f} ± {half:.{digits}f}"
    return f"**{text}**" if abs(fmean(points)) > half else text


def medians(values: Sequence[float], digits: int = 3) -> str:
    """Return median (least to most)."""
    middle = sorted(values)[len(values) // 2]
    return f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def grouped(jobs: Iterable[dict[str, Any]], *names: str) -> dict[Any, list[dict[str, Any]]]:
    """Return the jobs by their values of these entries, in the order in which these appear."""
    return _grouped(jobs, lambda job: tuple(job[name] for name in names))


def _grouped(items: Iterable[T], key: Callable[[T], tuple[Any, ...]]) -> dict[Any, list[T]]:
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


Job = dict[str, Any]
Pairs = list[tuple[Job, Job]]


def matched(jobs: Iterable[Job], one: Job, other: Job, names: Iterable[str]) -> Pairs:
    """Return pairs of a job with the one values and a job with the other values, which agree in
    the entries of these names that the values do not say.
    """
    rest = [name for name in names if name not in one]
    first, second = (
        {
            tuple(job[name] for name in rest): job
            for job in jobs
            if all(job[name] == value for name, value in side.items())
        }
        for side in (one, other)
    )
    return [(job, second[key]) for key, job in first.items() if key in second]


def together(pairs: Pairs, names: Sequence[str]) -> list[Pairs]:
    """Return the pairs in groups whose first jobs agree in these entries; one each without any.

    >>> jobs = [{"seed": 0}, {"seed": 1}, {"seed": 0}]
    >>> [len(group) for group in together([(job, job) for job in jobs], ["seed"])]
    [2, 1]
    """
    if not names:
        return [[pair] for pair in pairs]
    return list(_grouped(pairs, lambda pair: tuple(pair[0][name] for name in names)).values())


def contrasts(
    heads: Sequence[str],
    asked: Iterable[tuple[Sequence[str], Pairs]],
    measures: Mapping[str, Callable[[Job], float]],
    *,
    within: Sequence[str] = (),
) -> list[str]:
    """Return a table of differences: a row's first cells and the pairs that it is over. Rows
    without pairs are left out. Pairs that agree in the entries named `within` have a part of their
    training in common: they count as one, their mean.
    """
    asked = [(cells, pairs) for cells, pairs in asked if pairs]
    count = len(asked) * len(measures)
    lines = [
        "Differences in points over pairs, with the 95 % interval of Student's t, as wide as",
        f"Bonferroni asks of {count} comparisons; bold where it lies on one side of 0.",
        "",
        f"| {' | '.join([*heads, 'pairs', *measures])} |",
        "|---" * (len(heads) + 1 + len(measures)) + "|",
    ]
    for cells, pairs in asked:
        independent = together(pairs, within)
        found = [
            paired(
                [fmean(measure(one) for one, _ in group) for group in independent],
                [fmean(measure(other) for _, other in group) for group in independent],
                comparisons=count,
            )
            for measure in measures.values()
        ]
        lines.append(f"| {' | '.join([*cells, str(len(independent)), *found])} |")
    return lines

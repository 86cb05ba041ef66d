"""Correlation of two quantities along a path, with p-values that know that neighboring points are
alike.

Source: Pearson and Spearman by scipy; circular shifts and permuted blocks after Politis and Romano,
1994, and Harris, 2020 (nonsense correlations); specification, section 10. Repeats are combined in
Fisher's z, p-values by Fisher's way.

Where we depart: a p-value from independent points would be far too small here, so none is offered.
Shifts are exact for series that close; of unrelated series with a trend (random walks of 21 points)
one in four passes at 5 %, of blocks none (one in two by the plain p-value;
tests/test_correlation.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import atanh, isfinite, nan, sqrt, tanh
from typing import Literal

import numpy as np
from scipy.stats import combine_pvalues, rankdata
from scipy.stats import t as student

from isthmus.types import BadInput

Null = Literal["shift", "block"]
"""What series would look like without a relation: turned round against each other, or cut into
permuted blocks.
"""


Kind = Literal["pearson", "spearman"]
"""A coefficient of the values, or of their ranks."""


@dataclass(frozen=True)
class Series:
    """A quantity along a path: its name and one value for each t. Raises BadInput where the counts
    differ.
    """

    name: str
    t: tuple[float, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.t) != len(self.values) or len(self.t) < 4:
            raise BadInput(
                f"{len(self.values)} values of {self.name} at {len(self.t)} points",
                expected="one value a point, four points or more",
                fix="measure the path on a finer grid",
            )

    @property
    def array(self) -> np.ndarray:
        """The values, (m,), float64."""
        return np.array([float(value) for value in self.values])


@dataclass(frozen=True)
class Correlation:
    """How two series go together: coefficients, their p-values under the null, and the number of
    points m.

    NaN where a series is constant or not finite.
    """

    first: str
    second: str
    m: int
    pearson: float
    pearson_p: float
    spearman: float
    spearman_p: float


def check_same_grid(*series: Series) -> None:
    """Raise BadInput where series are on different grids."""
    for each in series[1:]:
        if each.t != series[0].t:
            raise BadInput(
                f"{series[0].name} at {len(series[0].t)} points from t = {series[0].t[0]:g} to {series[0].t[-1]:g} and "
                f"{each.name} at {len(each.t)} from {each.t[0]:g} to {each.t[-1]:g}",
                expected="both at the same t",
                fix="measure them together with evaluate_path",
            )


def _arrangements(m: int, null: Null, block: int | None, draws: int) -> np.ndarray:
    """Return orders of m points, (k, m), the given one first: every circular shift, or random
    orders of blocks.
    """
    if null == "shift":
        return (np.arange(m) + np.arange(m)[:, None]) % m
    pieces = np.array_split(np.arange(m), max(2, round(m / (block or round(sqrt(m))))))
    generator = np.random.default_rng(0)
    orders = [
        np.concatenate([pieces[i] for i in generator.permutation(len(pieces))])
        for _ in range(draws)
    ]
    return np.array([np.arange(m), *orders])


def _coefficient(first: np.ndarray, second: np.ndarray, orders: np.ndarray) -> tuple[float, float]:
    """Return Pearson's coefficient, and the share of all orders whose own is as far from 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = ((each - each.mean()) / each.std() for each in (first, second))
        found = a[orders] @ b / len(a)
    if not isfinite(found[0]):
        return nan, nan
    return float(np.clip(found[0], -1, 1)), float(np.mean(np.abs(found) >= abs(found[0]) - 1e-12))


def correlate(
    first: Series,
    second: Series,
    null: Null = "shift",
    *,
    block: int | None = None,
    draws: int = 999,
) -> Correlation:
    """Return Pearson's and Spearman's correlation of two series on one grid, with p-values.

    "shift" compares with all circular shifts of one series against the other, so with m points no p
    is below 1 / m; "block" with `draws` random orders of blocks of `block` neighbors, by default
    about the square root of m. Raises BadInput where the grids differ or the null is unknown.

    >>> t = tuple(i / 9 for i in range(10))
    >>> found = correlate(Series("a", t, t), Series("b", t, tuple(x**3 for x in t)))
    >>> round(found.pearson, 3), found.spearman, found.spearman_p
    (0.908, 1.0, 0.1)
    """
    check_same_grid(first, second)
    if null not in ("shift", "block") or (block is not None and block < 1) or draws < 1:
        raise BadInput(
            f"null = {null!r}, block = {block}",
            expected="shift or block, 1 or more",
            fix="choose one",
        )
    a, b = first.array, second.array
    orders = _arrangements(len(a), null, block, draws)
    pearson = _coefficient(a, b, orders)
    spearman = (
        _coefficient(rankdata(a), rankdata(b), orders) if isfinite(pearson[0]) else (nan, nan)
    )
    return Correlation(first.name, second.name, len(a), *pearson, *spearman)


@dataclass(frozen=True)
class Estimate:
    """A mean over independent repeats with its 95 % interval by Student's t; NaN ends for one
    repeat.
    """

    value: float
    low: float
    high: float
    repeats: int


def over_repeats(values: Sequence[float]) -> Estimate:
    """Return the mean of independent repeats with its interval; values that are not finite are left
    out.

    >>> over_repeats([1.0, 2.0, 3.0])  # doctest: +ELLIPSIS
    Estimate(value=2.0, low=-0.48..., high=4.48..., repeats=3)
    """
    kept = np.array([each for each in map(float, values) if isfinite(each)])
    if len(kept) < 2:
        return Estimate(float(kept[0]) if len(kept) else nan, nan, nan, len(kept))
    half = float(student.ppf(0.975, len(kept) - 1) * kept.std(ddof=1) / sqrt(len(kept)))
    return Estimate(
        float(kept.mean()), float(kept.mean()) - half, float(kept.mean()) + half, len(kept)
    )


def combine(found: Sequence[Correlation], kind: Kind) -> tuple[Estimate, float]:
    """Return one coefficient with its interval, averaged over independent paths in Fisher's z, and
    one p-value.

    Fisher's z has no value at 1. Ranks of m points move in steps of 12 / (m^3 - m), so a rank
    correlation of 1 stands for anything from half a step below it and counts as that."""
    z = []
    for each in found:
        most = 1 - (6 / (each.m**3 - each.m) if kind == "spearman" else 1e-12)
        if isfinite(r := getattr(each, kind)):
            z.append(atanh(max(-most, min(most, r))))
    mean, known = (
        over_repeats(z),
        [p for each in found if isfinite(p := getattr(each, f"{kind}_p"))],
    )
    p = float(combine_pvalues(known, method="fisher").pvalue) if known else nan
    return Estimate(tanh(mean.value), tanh(mean.low), tanh(mean.high), mean.repeats), p


def r_squared(outcomes: Sequence[Series], *predictors: Sequence[Series]) -> float:
    """Return the share of an outcome's variance along its path that a linear function of the
    predictors explains.

    One series per path in each sequence; every path has an intercept of its own, and one set of
    slopes serves all. NaN where the outcome is constant or something is not finite. Raises BadInput
    where grids differ within a path."""
    rows = list(zip(outcomes, *predictors, strict=True))
    for row in rows:
        check_same_grid(*row)
    table = np.concatenate(
        [(path - path.mean(0)) for path in (np.stack([s.array for s in row], 1) for row in rows)]
    )
    y, x = table[:, 0], table[:, 1:]
    if not np.isfinite(table).all() or not y.any():
        return nan
    scale = np.linalg.norm(x, axis=0)
    x = x / np.where(scale > 0, scale, 1)
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float(1 - left @ left / (y @ y))

"""Correlation of two quantities along a path, with p-values that know that neighboring points are
alike.

Source: Pearson and Spearman by scipy; circular shifts and permuted blocks after Politis and Romano,
1994, and Harris, 2020 (nonsense correlations); docs/landscape.md. Repeats are combined in
Fisher's z, p-values by Fisher's way.

Where we depart: a p-value from independent points would be far too small here, so none is offered.
Shifts are exact for series that close. Of unrelated series with a trend (random walks of 21
points), one in four has p <= 5 % by shifts, none by blocks, and one in two by the plain p-value
(tests/metrics/test_correlation.py).
"""

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
"""What unrelated series look like: one is shifted circularly against the other, or its blocks are
permuted.
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
    for other in series[1:]:
        if other.t != series[0].t:
            raise BadInput(
                f"{_extent(series[0])} and {_extent(other)}",
                expected="both at the same t",
                fix="measure them together with evaluate_path",
            )


def _extent(series: Series) -> str:
    return f"{series.name} at {len(series.t)} points from t = {series.t[0]:g} to {series.t[-1]:g}"


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
        a = (first - first.mean()) / first.std()
        b = (second - second.mean()) / second.std()
        coefficients = a[orders] @ b / len(a)
    own = coefficients[0]
    if not isfinite(own):
        return nan, nan
    as_far = np.abs(coefficients) >= abs(own) - 1e-12
    return float(np.clip(own, -1, 1)), float(np.mean(as_far))


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
    >>> pair = correlate(Series("a", t, t), Series("b", t, tuple(x**3 for x in t)))
    >>> round(pair.pearson, 3), pair.spearman, pair.spearman_p
    (0.908, 1.0, 0.1)
    """
    check_same_grid(first, second)
    if null not in ("shift", "block") or (block is not None and block < 1) or draws < 1:
        raise BadInput(
            f"null = {null!r}, block = {block}",
            expected="shift or block, 1 or more",
            fix="pass null='shift', and leave block out",
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
    """Return the mean of independent repeats with its interval, without values that are not finite.

    >>> over_repeats([1.0, 2.0, 3.0])  # doctest: +ELLIPSIS
    Estimate(value=2.0, low=-0.48..., high=4.48..., repeats=3)
    """
    finite = np.array([value for value in map(float, values) if isfinite(value)])
    n = len(finite)
    if n == 0:
        return Estimate(nan, nan, nan, 0)
    mean = float(finite.mean())
    if n == 1:
        return Estimate(mean, nan, nan, 1)
    half = float(student.ppf(0.975, n - 1) * finite.std(ddof=1) / sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def combine(correlations: Sequence[Correlation], kind: Kind) -> tuple[Estimate, float]:
    """Return one coefficient with its interval, averaged over independent paths in Fisher's z, and
    one p-value.

    Fisher's z has no value at 1. Ranks of m points move in steps of 12 / (m^3 - m), so a rank
    correlation of 1 stands for anything from half a step below it and counts as that.
    """
    finite = [pair for pair in correlations if isfinite(getattr(pair, kind))]
    mean = over_repeats([_fisher_z(pair, kind) for pair in finite])
    known = [p for pair in correlations if isfinite(p := getattr(pair, f"{kind}_p"))]
    p = float(combine_pvalues(known, method="fisher").pvalue) if known else nan
    return Estimate(tanh(mean.value), tanh(mean.low), tanh(mean.high), mean.repeats), p


def _fisher_z(pair: Correlation, kind: Kind) -> float:
    below_one = 6 / (pair.m**3 - pair.m) if kind == "spearman" else 1e-12
    most = 1 - below_one
    return atanh(max(-most, min(most, getattr(pair, kind))))


def r_squared(outcomes: Sequence[Series], *predictors: Sequence[Series]) -> float:
    """Return the share of an outcome's variance along its path that a linear function of the
    predictors explains.

    One series per path in each sequence; every path has an intercept of its own, and one set of
    slopes serves all. NaN where the outcome is constant or something is not finite. Raises BadInput
    where grids differ within a path.
    """
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

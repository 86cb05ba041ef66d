"""Values that carry their interval: a share of samples (`Rate`), an average over samples (`Mean`).

Sources: Wilson, JASA 1927, for the interval of a share; Newcombe, Statistics in Medicine 1998, for
a difference."""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot, sqrt
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from isthmus.types import BadInput

_Z95 = 1.959963984540054


class Rate(float):
    """A share hits / n with its 95 % Wilson interval [low, high]; refuses n = 0.

    >>> rate = Rate(95, 100)
    >>> float(rate), round(rate.low, 4), round(rate.high, 4)
    (0.95, 0.8882, 0.9785)
    """

    hits: int
    n: int

    def __new__(cls, hits: int, n: int) -> Rate:
        if n < 1 or not 0 <= hits <= n:
            raise BadInput(
                f"{hits} hits of {n}",
                expected="0 <= hits <= n, n >= 1",
                fix="count over one sample or more",
            )
        rate = super().__new__(cls, hits / n)
        rate.hits, rate.n = hits, n
        return rate

    def __getnewargs__(self) -> tuple[int, int]:  # type: ignore[override]
        return self.hits, self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95 % Wilson interval."""
        found = binomtest(self.hits, self.n).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.interval[0]

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.interval[1]


def least_drop(before: float, after: float) -> float:
    """Return the lower end of the 95 % interval of before - after, for two shares of samples of
    their own.

    Source: Newcombe, Statistics in Medicine 1998, method 10, from the two Wilson intervals; a value
    without an interval counts as known. For the same samples it is wider than need be.

    >>> round(least_drop(Rate(56, 70), Rate(48, 80)), 4)
    0.0524
    """
    below, above = before - getattr(before, "low", before), getattr(after, "high", after) - after
    return float(before - after - hypot(below, above))


class Mean(float):
    """An average over n samples with its 95 % normal interval [low, high], from their standard
    deviation.

    `quartiles` (lower, median, upper) are there where the samples are known to spread unevenly.

    >>> mean = Mean.of(torch.tensor([0.0, 1.0, 2.0, 9.0]), quartiles=True)
    >>> float(mean), mean.n, mean.quartiles
    (3.0, 4, (0.75, 1.5, 3.75))
    """

    n: int
    deviation: float
    quartiles: tuple[float, float, float] | None

    def __new__(
        cls,
        mean: float,
        n: int,
        deviation: float,
        quartiles: tuple[float, float, float] | None = None,
    ) -> Mean:
        value = super().__new__(cls, mean)
        value.n, value.deviation, value.quartiles = n, deviation, quartiles
        return value

    @classmethod
    def of(cls, values: Tensor, *, quartiles: bool = False) -> Mean:
        """Return the average of the values, (n,)."""
        values = values.double()
        cuts = (
            torch.quantile(values, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
            if quartiles
            else None
        )
        found = (float(cuts[0]), float(cuts[1]), float(cuts[2])) if cuts is not None else None
        return cls(float(values.mean()), len(values), float(values.std(correction=0)), found)

    def __getnewargs__(self) -> tuple[float, int, float, tuple[float, float, float] | None]:  # type: ignore[override]
        return float(self), self.n, self.deviation, self.quartiles

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return float(self) - _Z95 * self.deviation / sqrt(self.n)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return float(self) + _Z95 * self.deviation / sqrt(self.n)


def as_record(value: float) -> dict[str, Any]:
    """Return a value with what it carries, as plain JSON: `value`, and `hits`, `n`, `low`, `high`
    where it has them.
    """
    names = ("hits", "n", "deviation", "low", "high")
    record = {
        "value": float(value),
        **{name: getattr(value, name) for name in names if hasattr(value, name)},
    }
    quartiles = getattr(value, "quartiles", None)
    return record if quartiles is None else {**record, "quartiles": list(quartiles)}


def as_records(found: Mapping[str, float]) -> dict[str, Any]:
    """Return what `measure` found as plain JSON, by name."""
    return {name: as_record(value) for name, value in found.items()}


def from_record(record: Mapping[str, Any]) -> float:
    """Return the value that `as_record` wrote."""
    if "hits" in record:
        return Rate(record["hits"], record["n"])
    if "deviation" in record:
        quartiles = record.get("quartiles")
        return Mean(
            record["value"],
            record["n"],
            record["deviation"],
            tuple(quartiles) if quartiles else None,
        )
    return float(record["value"])

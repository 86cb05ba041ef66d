"""Values that carry their unit and their interval: a share of samples (`Rate`), an average over
samples (`Mean`), a number with a unit (`Quantity`). A plain float is a plain number.

Sources: Wilson, JASA 1927, for the interval of a share; Newcombe, Statistics in Medicine 1998, for
a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot, nan, sqrt
from typing import Any

import torch
from torch import Tensor

from isthmus.metrics.area import Area
from isthmus.metrics.health import Health
from isthmus.metrics.intervals import Z95, wilson
from isthmus.metrics.names import (
    ACCURACY,
    ATTACK_SUCCESS,
    BONAFIDE_ACCURACY,
    BONAFIDE_LOSS,
    ERROR,
    EVASION,
    GRADIENT_L1,
    GRADIENT_L2,
    INJECTION_SUCCESS,
    LAMBDA_MAX,
    LOSS,
    LOWER,
    ROBUST_ACCURACY,
    ROBUST_LOSS,
    UPPER,
)
from isthmus.types import BadInput

SHARE = "share"
"""The unit of a share of samples, in [0, 1]; a person reads it in percent."""

NATS = "nats"
"""The unit of a loss."""

NUMBER = ""
"""The unit of a number that has none."""

PER_UNIT = "nats per unit of input"
"""The unit of a loss's gradient in the input."""

PER_SQUARE = "nats per squared unit of input"
"""The unit of a loss's curvature in the input."""


_Quartiles = tuple[float, float, float] | None


class Rate(float):
    """A share hits / n with its 95 % Wilson interval [low, high]; refuses n = 0.

    >>> rate = Rate(95, 100)
    >>> float(rate), round(rate.low, 4), round(rate.high, 4)
    (0.95, 0.8882, 0.9785)
    """

    unit = SHARE
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
        return wilson(self.hits, self.n)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.interval[0]

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.interval[1]


class RobustRate(Rate):
    """A share of samples under an attack, with the health of that attack: None where nobody watched
    it.
    """

    health: Health | None

    def __new__(cls, hits: int, n: int, health: Health | None = None) -> RobustRate:
        rate = super().__new__(cls, hits, n)
        assert isinstance(rate, RobustRate)
        rate.health = health
        return rate

    def __getnewargs__(self) -> tuple[int, int, Health | None]:  # type: ignore[override]
        return self.hits, self.n, self.health


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


def paired_drop(lost: int, gained: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of the drop of a share between two networks on the same n samples.

    Of these, `lost` count before alone and `gained` after alone. Source: Agresti and Min,
    Statistics in Medicine 2005 (Wald's interval after half a sample is added to every cell). Raises
    BadInput where they are more than n, or negative.

    >>> [round(end, 4) for end in paired_drop(lost=90, gained=30, n=1000)]
    [0.0387, 0.0811]
    """
    if min(lost, gained) < 0 or lost + gained > n or n < 1:
        raise BadInput(
            f"{lost} lost and {gained} gained of {n} samples",
            expected="no more than there are samples",
            fix="count both on the same samples",
        )
    total = n + 2
    drop = (lost - gained) / total
    half = Z95 * sqrt((lost + gained + 1) / total - drop**2) / sqrt(total)
    return drop - half, drop + half


class Quantity(float):
    """A number with a unit and without an interval.

    >>> Quantity(0.25, NATS), Quantity(0.25, NATS).unit
    (0.25, 'nats')
    """

    unit: str

    def __new__(cls, value: float, unit: str) -> Quantity:
        quantity = super().__new__(cls, value)
        quantity.unit = unit
        return quantity

    def __getnewargs__(self) -> tuple[float, str]:  # type: ignore[override]
        return float(self), self.unit


class Mean(float):
    """An average over n samples with its 95 % normal interval [low, high], from their standard
    deviation.

    `unit` is that of a sample: NATS for a loss, "" for a number without a unit. `quartiles` (lower,
    median, upper) are there where the samples are known to spread unevenly.

    >>> mean = Mean.of(torch.tensor([0.0, 1.0, 2.0, 9.0]), quartiles=True, unit=NATS)
    >>> float(mean), mean.n, mean.quartiles, mean.unit
    (3.0, 4, (0.75, 1.5, 3.75), 'nats')
    """

    n: int
    deviation: float
    quartiles: _Quartiles
    unit: str

    def __new__(
        cls,
        mean: float,
        n: int,
        deviation: float,
        quartiles: _Quartiles = None,
        unit: str = NUMBER,
    ) -> Mean:
        value = super().__new__(cls, mean)
        value.n = n
        value.deviation = deviation
        value.quartiles = quartiles
        value.unit = unit
        return value

    @classmethod
    def of(cls, values: Tensor, *, quartiles: bool = False, unit: str = NUMBER) -> Mean:
        """Return the average of the values, (n,), in their unit."""
        values = values.double()
        cuts = None
        if quartiles:
            places = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
            lower, median, upper = torch.quantile(values, places).tolist()
            cuts = (lower, median, upper)
        deviation = float(values.std(correction=0))
        return cls(float(values.mean()), len(values), deviation, cuts, unit)

    def __getnewargs__(self) -> tuple[float, int, float, _Quartiles, str]:  # type: ignore[override]
        return float(self), self.n, self.deviation, self.quartiles, self.unit

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return float(self) - Z95 * self.deviation / sqrt(self.n)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return float(self) + Z95 * self.deviation / sqrt(self.n)


def unit_of(value: float) -> str:
    """Return the unit of a value; that of a plain float is NUMBER.

    >>> unit_of(Rate(1, 2)), unit_of(0.5)
    ('share', '')
    """
    return str(getattr(value, "unit", NUMBER))


def as_record(value: float) -> dict[str, Any]:
    """Return a value as plain JSON: `value` and `unit`; `hits`, `n`, `clean`, `suspicious`,
    `deviation`, `low`, `high`, `quartiles` and `health` where it has them.
    """
    names = ("hits", "n", "clean", "suspicious", "deviation", "low", "high")
    carried = {name: getattr(value, name) for name in names if hasattr(value, name)}
    record = {"value": float(value), "unit": unit_of(value), **carried}
    health = getattr(value, "health", None)
    if health is not None:
        record["health"] = health.record
    quartiles = getattr(value, "quartiles", None)
    return record if quartiles is None else {**record, "quartiles": list(quartiles)}


def as_records(values: Mapping[str, float]) -> dict[str, Any]:
    """Return what `measure` returned as plain JSON, by name."""
    return {name: as_record(value) for name, value in values.items()}


def from_record(record: Mapping[str, Any], name: str = "") -> float:
    """Return the value that `as_record` wrote; one that was not finite, null in JSON, is NaN.

    `name` is the metric's. It is read only where the record was written before values had units.
    """
    if record.get("health") is not None:
        return RobustRate(record["hits"], record["n"], Health.from_record(record["health"]))
    if "hits" in record:
        return Rate(record["hits"], record["n"])
    if "suspicious" in record:
        return Area(record["value"], record["clean"], record["suspicious"])
    value = nan if record["value"] is None else float(record["value"])
    unit = recorded_unit(record, name)
    if record.get("deviation") is None:
        return Quantity(value, unit) if unit else value
    quartiles = record.get("quartiles")
    cuts = tuple(quartiles) if quartiles else None
    return Mean(value, record["n"], record["deviation"], cuts, unit)


_UNITS_BY_NAME = {
    ACCURACY: SHARE,
    BONAFIDE_ACCURACY: SHARE,
    ROBUST_ACCURACY: SHARE,
    ATTACK_SUCCESS: SHARE,
    INJECTION_SUCCESS: SHARE,
    EVASION: SHARE,
    ERROR: SHARE,
    LOSS: NATS,
    BONAFIDE_LOSS: NATS,
    ROBUST_LOSS: NATS,
    LOWER: NATS,
    UPPER: NATS,
    LAMBDA_MAX: PER_SQUARE,
    GRADIENT_L1: PER_UNIT,
    GRADIENT_L2: PER_UNIT,
}


def recorded_unit(record: Mapping[str, Any], name: str) -> str:
    """Return the unit of a value on record.

    Records written before values had units lack it: one with `hits` is a share, any other has the
    unit that the metric of this name had then.

    >>> recorded_unit({"value": 2.0, "unit": "nats"}, ""), recorded_unit({"value": 2.0}, "loss")
    ('nats', 'nats')
    """
    if "unit" in record:
        return str(record["unit"])
    return SHARE if "hits" in record else _UNITS_BY_NAME.get(name, NUMBER)

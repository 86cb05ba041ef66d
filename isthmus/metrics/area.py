"""The area under the ROC curve with its interval.

Source: Newcombe, Statistics in Medicine 2006, part 2, method 5: the variance of Hanley and McNeil,
Radiology 1982, taken at the end of the interval, which keeps its width where the areas are 0 or 1.
The two groups count as independent; attacked versions of the same images vary less.
"""

from __future__ import annotations

from math import nan, sqrt

import torch
from torch import Tensor

from isthmus.metrics.intervals import Z95
from isthmus.types import BadInput

_HALVINGS = 60
"""Halved 60 times, an interval within [0, 1] is narrower than floating point resolves near 1."""


class Area(float):
    """The probability that a suspicious input scores higher than a clean one (ties count half),
    with its 95 % interval [low, high].

    >>> area = Area.of(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    >>> float(area), area.clean, area.suspicious
    (0.875, 2, 2)
    """

    unit = ""
    clean: int
    suspicious: int

    def __new__(cls, area: float, clean: int, suspicious: int) -> Area:
        if min(clean, suspicious) < 1 or not 0 <= area <= 1:
            raise BadInput(
                f"an area of {area} from {clean} clean and {suspicious} suspicious inputs",
                expected="an area in [0, 1] from one input of each kind or more",
                fix="pass scores of clean and of suspicious inputs, without NaN",
            )
        value = super().__new__(cls, area)
        value.clean = clean
        value.suspicious = suspicious
        return value

    def __getnewargs__(self) -> tuple[float, int, int]:  # type: ignore[override]
        return float(self), self.clean, self.suspicious

    @classmethod
    def of(cls, clean: Tensor, suspicious: Tensor) -> Area:
        """Return the area for the scores of clean and of suspicious inputs, each (n,)."""
        n, m = len(clean), len(suspicious)
        if not min(n, m):
            return cls(0.5, n, m)
        if bool(clean.isnan().any() | suspicious.isnan().any()):
            return cls(nan, n, m)
        ordered = clean.double().sort().values
        below, up_to = (
            torch.searchsorted(ordered, suspicious.double(), side=side)
            for side in ("left", "right")
        )
        wins = int((below + up_to).sum()) / 2
        return cls(wins / (n * m), n, m)

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self._end(-1)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self._end(1)

    def _end(self, side: int) -> float:
        """Return the area at which this one is 1.96 deviations away."""
        edge = 1.0 if side > 0 else 0.0
        if float(self) == edge:
            return edge

        def excess(area: float) -> float:
            return side * (area - float(self)) - Z95 * self._deviation(area)

        inside, outside = min(max(float(self), 1e-12), 1 - 1e-12), edge  # the deviation is not 0
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if excess(middle) > 0 else (middle, outside)
        return outside

    def _deviation(self, area: float) -> float:
        spare = (self.clean + self.suspicious) / 2 - 1
        inner = 1 + spare * (1 - area) / (2 - area) + spare * area / (1 + area)
        return sqrt(max(0.0, area * (1 - area) * inner / (self.clean * self.suspicious)))

"""Thresholds of a stated false positive rate, with the interval that the samples allow.

The threshold is an order statistic of clean scores, and so the false positive rate that it will
have on other clean data follows a beta distribution, whatever the distribution of the scores
(Wilks, 1941).
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor
from numbers import Real

import torch
from scipy.stats import beta
from torch import Tensor

from isthmus.types import BadInput

_ROUNDING = Fraction(1, 10**9)
"""A rate such as 0.05 is no float: twenty times it is to be 1."""


class Threshold(float):
    """Scores above it are flagged.

    `false_positive_rate` of clean inputs are, on average over calibration sets; for this set the
    rate lies in [low, high] with probability 0.95.

    `samples` is the number of calibration samples.
    """

    false_positive_rate: float
    low: float
    high: float
    samples: int

    def __new__(
        cls, value: float, false_positive_rate: float, low: float, high: float, samples: int
    ) -> Threshold:
        """Return the threshold as a float that carries what is known of it."""
        threshold = super().__new__(cls, value)
        threshold.false_positive_rate = false_positive_rate
        threshold.low = low
        threshold.high = high
        threshold.samples = samples
        return threshold

    def __getnewargs__(self) -> tuple[float, float, float, float, int]:  # type: ignore[override]
        return float(self), self.false_positive_rate, self.low, self.high, self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the false positive rate on other clean data."""
        return self.low, self.high

    def flags(self, scores: Tensor) -> Tensor:
        """Return whether each of the scores (n,) is above the threshold, (n,) bool.

        >>> Threshold(2.0, 0.05, 0.0, 0.1, 100).flags(torch.tensor([1.0, 2.0, 3.0]))
        tensor([False, False,  True])
        """
        return scores > float(self)

    def record(self) -> dict[str, float]:
        """Return the threshold as plain JSON."""
        names = ("false_positive_rate", "low", "high", "samples")
        return {"value": float(self), **{name: getattr(self, name) for name in names}}


def calibrated(clean: Tensor, rate: float) -> Threshold:
    """Return the threshold that a share `rate` of clean inputs exceeds on average, from the scores
    of some of them, (n,).

    Raises BadInput where the rate is not between 0 and 1, a score is not finite, or the samples
    cannot resolve the rate: it takes 2 / rate - 1 of them.

    >>> threshold = calibrated(torch.arange(99.0), 0.05)
    >>> float(threshold), round(threshold.low, 3), round(threshold.high, 3)
    (94.0, 0.017, 0.1)
    """
    if not isinstance(rate, Real) or not 0 < rate < 1:
        raise BadInput(
            f"false_positive_rate = {rate!r}", expected="between 0 and 1", fix="pass 0.05 for 5 %"
        )
    if not bool(torch.isfinite(clean).all()):
        raise BadInput(
            "scores that are not finite",
            expected="numbers",
            fix="check the inputs for NaN, and the network for weights that have diverged",
        )
    rate = float(rate)
    n = len(clean)
    if not resolves(n, rate):
        raise BadInput(
            f"a false positive rate of {rate:g} from {n} samples",
            expected=f"{_least_samples(rate)} samples or more for this rate",
            fix="give more clean samples, or accept more false alarms",
        )
    rank = _rank(n, rate)
    value = float(clean.double().sort().values[rank - 1])
    above = int((clean.double() > value).sum())  # fewer than n - rank where scores are equal
    low = float(beta.ppf(0.025, above, n - above + 1)) if above else 0.0
    if above == n - rank:
        low = float(beta.ppf(0.025, n - rank + 1, rank))
    high = float(beta.ppf(0.975, n - rank + 1, rank))
    return Threshold(value, rate, low, high, n)


def resolves(samples: int, rate: float) -> bool:
    """Return whether the samples can promise the rate: the threshold is not their largest score.

    >>> resolves(20, 0.05), resolves(39, 0.05)
    (False, True)
    """
    return _rank(samples, rate) < samples


def _rank(samples: int, rate: float) -> int:
    """Return which of the sorted scores is the threshold, from 1 on."""
    return max(1, samples + 1 - floor((samples + 1) * Fraction(rate) + _ROUNDING))


def _least_samples(rate: float) -> int:
    """Return the least n that resolves the rate: (n + 1) * rate is 2."""
    return max(1, ceil((2 - _ROUNDING) / Fraction(rate)) - 1)

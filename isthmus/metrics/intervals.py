"""The 95 % interval of a share.

Source: Wilson, JASA 1927. Written out because it takes four lines, while scipy.stats takes longer
to load than the rest of the room.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

Z95 = NormalDist().inv_cdf(0.975)
"""The number of standard deviations around the mean that hold 95 % of a normal variable."""


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the ends of the 95 % Wilson interval of the share hits / n.

    >>> wilson(0, 10)
    (0.0, 0.27753...)
    """
    center = hits + Z95**2 / 2
    half = Z95 * sqrt(hits * (n - hits) / n + Z95**2 / 4)
    low = (center - half) / (n + Z95**2) if hits else 0.0
    high = (center + half) / (n + Z95**2) if hits < n else 1.0
    return low, high

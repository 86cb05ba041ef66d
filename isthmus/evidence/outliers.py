"""Bonafide samples that do not look like the others: what pixels alone tell before a repair."""

from __future__ import annotations

from functools import lru_cache

from isthmus.data.dataset import Data
from isthmus.detection.trusted import screen_trusted
from isthmus.metrics.values import Rate

SCREENED = 5000
"""How many samples are compared with each other, at most."""

EXPECTED = 0.01
"""The share of a clean set that lies outside in any case."""

FEWEST = 100
"""With fewer samples nothing is usual, and nothing is said."""


@lru_cache(maxsize=2)
def foreign_samples(samples: Data) -> tuple[int, ...]:
    """Return the places of samples that are far from all others, in pixels, where they are beyond
    doubt more than a clean set has; nothing where there are too few samples to say.

    Looks at the first SCREENED samples, once for each set.
    """
    if len(samples) < FEWEST:
        return ()
    screened = samples[:SCREENED]
    foreign = screen_trusted(screened).foreign.nonzero().squeeze(1).tolist()
    return tuple(foreign) if Rate(len(foreign), len(screened)).low > EXPECTED else ()

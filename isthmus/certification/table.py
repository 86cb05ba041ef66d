"""The certifiers that come with the package, by name: what the command line and the tester run."""

from __future__ import annotations

from isthmus.certification.certifier import Certifier
from isthmus.certification.intervals import Interval
from isthmus.certification.lipschitz import Lipschitz
from isthmus.certification.mixed_monotone import MixedMonotone
from isthmus.certification.smoothing import Smoothing


def certifiers() -> dict[str, Certifier]:
    """Return every certifier with its default settings."""
    return {
        "mixed monotone": MixedMonotone(),
        "mixed monotone, not relative": MixedMonotone(relative=False),
        "interval": Interval(),
        "lipschitz": Lipschitz(),
        "smoothing": Smoothing(),
    }

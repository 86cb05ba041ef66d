"""The scores by name: what the detector, the command line and the tester run."""

from __future__ import annotations

from isthmus.detection.inconsistency import Inconsistency
from isthmus.detection.kde import Kde
from isthmus.detection.knn import Knn, KnnLinf
from isthmus.detection.lle import Lle
from isthmus.detection.mahalanobis import Mahalanobis
from isthmus.detection.score import Score
from isthmus.detection.tangent import Tangent


def scores() -> dict[str, type[Score]]:
    """Return every score by its name."""
    return {
        "knn": Knn,
        "linf": KnnLinf,
        "kde": Kde,
        "lle": Lle,
        "tangent": Tangent,
        "mahalanobis": Mahalanobis,
        "inconsistency": Inconsistency,
    }

"""Which samples of a trusted set do not belong to it, before a network is repaired with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.detection.detector import ManifoldDetector
from isthmus.detection.features import finite
from isthmus.detection.neighbors import NeighborScore
from isthmus.types import BadInput

FENCE = 1.5
"""How many interquartile ranges above the upper quartile a distance is outside (Tukey, 1977)."""

ROUNDING = 1e-6
"""Distances that differ by less than this share are equal."""

DISAGREEING = 0.8
"""The share of neighbors with one and the same other label from which a label is suspect. Neighbors
of many labels do not tell which is right: in pixels of CIFAR-10 that would be most of a clean set.
"""


@dataclass(frozen=True, eq=False)
class Screening:
    """How well each sample of a set fits the others, (n,) each.

    `distance` is the score among the nearest others, `disagreement` the largest share of these that
    has one other label. `foreign` are far from all others, `mislabeled` lie among another class.
    """

    distance: Tensor
    disagreement: Tensor
    foreign: Tensor
    mislabeled: Tensor

    @property
    def suspects(self) -> Tensor:
        """Whether each sample is foreign or mislabeled, (n,) bool."""
        return self.foreign | self.mislabeled

    def belonging(self, data: Data) -> Data:
        """Return the samples that are not suspect. Raises BadInput where all of them are."""
        if bool(self.suspects.all()):
            raise BadInput(
                f"{len(data)} samples of which none belongs to the others",
                expected="some that do",
                fix="look at the set, or at the layer that was compared",
            )
        return data[~self.suspects]

    @property
    def summary(self) -> str:
        """What to look at, in a line."""
        n = len(self.distance)
        return (
            f"{int(self.foreign.sum())} of {n} trusted samples are far from all others, "
            f"{int(self.mislabeled.sum())} lie among another class"
        )


def screen_trusted(
    trusted: Source,
    model: nn.Module | None = None,
    layer: str | Sequence[str] | None = None,
    neighbors: int = 10,
    score: str = "knn",
) -> Screening:
    """Return how well each trusted sample fits the others, in pixels or in one layer's features.

    Every sample is compared with the others, so nothing clean is needed beside the set; what makes
    up much of a class is not seen. In the features of a tampered network triggered samples may look
    like their target class. Raises BadInput as `ManifoldDetector.fit` does, for several layers or a
    score without neighbors, and where there are no more samples than neighbors.
    """
    data = as_data(trusted)
    if len(data) <= neighbors:
        raise BadInput(
            f"{len(data)} samples, each compared with {neighbors} others",
            expected=f"{neighbors + 1} samples or more",
            fix=f"pass neighbors={max(1, len(data) - 1)} or fewer, or more samples",
        )
    detector = ManifoldDetector(score, neighbors, layer).fit(data, model)
    part = detector.fitted.parts[0]
    if len(detector.fitted.parts) > 1 or not isinstance(part, NeighborScore):
        raise BadInput(
            f"the score {score} in {len(detector.layers)} layers",
            expected="a score over neighbors, in one layer or in pixels",
            fix="name one layer, and knn, linf, kde, lle or tangent",
        )
    with torch.no_grad():
        index = part.others(len(data), neighbors)
        distance = part.by_parts(part.reference, index, part.local)
    distance = finite(distance[:, None], f"scores {score}").squeeze(1)
    disagreement = _largest_other(data.y[index], data.y)
    foreign = distance > _fence(distance)
    return Screening(distance, disagreement, foreign, disagreement >= DISAGREEING)


def _fence(distance: Tensor) -> float:
    """Return the distance beyond which a sample is far from the others.

    Where three quarters of the samples or more are copies of each other, at distance 0, their
    quartiles say nothing of how far the rest are: then those of the rest count.
    """
    nothing = ROUNDING * distance.max()
    places = torch.tensor([0.25, 0.75], dtype=torch.float64)
    lower, upper = torch.quantile(distance, places)
    if upper <= nothing:
        apart = distance[distance > nothing]
        if not len(apart):
            return inf
        lower, upper = torch.quantile(apart, places)
    return float(upper + torch.maximum(FENCE * (upper - lower), ROUNDING * upper))


def _largest_other(near: Tensor, own: Tensor) -> Tensor:
    """Return the largest share of one label other than its own, (n,), among the labels (n, k) of
    each sample's neighbors.
    """
    classes, places = torch.cat([near, own[:, None]], 1).unique(return_inverse=True)
    counts = torch.zeros(len(own), len(classes), dtype=torch.float64)
    counts.scatter_add_(1, places[:, :-1], torch.ones_like(near, dtype=torch.float64))
    counts.scatter_(1, places[:, -1:], 0.0)
    return counts.amax(1) / near.shape[1]

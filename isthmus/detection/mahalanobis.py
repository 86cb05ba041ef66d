"""Mahalanobis distance of features to the nearest class mean.

Source: Lee, Lee, Lee, Shin, NeurIPS 2018: means of the classes and one covariance for all. Where we
depart: the covariance is shrunk (Ledoit and Wolf, 2004), the distance is not squared, several
layers are averaged and not weighted by a classifier, which would have to see attacks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from isthmus.detection.score import Score, check_width
from isthmus.types import BadInput


@dataclass(frozen=True, eq=False)
class Mahalanobis(Score):
    """Distance to the nearest of `means` (classes, d) once `whitening` (d, d) is applied."""

    means: Tensor
    whitening: Tensor

    dimensions: ClassVar[dict[str, str]] = {"means": "classes d", "whitening": "d d"}

    @classmethod
    def fit(cls, features: tuple[Tensor, ...], labels: Tensor, neighbors: int) -> Self:
        """Return the score. Raises BadInput where there are more features than WIDEST, or no more
        samples than classes.
        """
        (reference,) = features
        check_width(reference, "the Mahalanobis distance")
        rows = reference.double().cpu()
        classes, own = labels.cpu().unique(return_inverse=True)
        if len(rows) <= len(classes):
            raise BadInput(
                f"{len(rows)} reference samples of {len(classes)} classes",
                expected="more samples than classes: their spread around the means is measured",
                fix="give more reference samples",
            )
        sums = torch.zeros(len(classes), rows.shape[1], dtype=torch.float64)
        means = sums.index_add(0, own, rows) / own.bincount()[:, None]
        centered = rows - means[own]
        covariance = torch.from_numpy(ledoit_wolf(centered.numpy(), assume_centered=True)[0])
        variances, directions = torch.linalg.eigh(covariance)
        least = max(1e-10 * float(variances[-1]), torch.finfo(torch.float64).tiny ** 0.5)
        return cls(means, (directions * variances.clamp_min(least).rsqrt()).contiguous())

    def __call__(self, *features: Tensor) -> Tensor:
        """Return the distances of features (n, d)."""
        (x,) = features
        whitening = self.whitening.to(x.device)
        white = x.double() @ whitening
        means = self.means.to(x.device) @ whitening
        squares = [(white - mean).square().sum(1) for mean in means]
        nearest = torch.stack(squares, 1).argmin(1)
        distances: Tensor = torch.linalg.vector_norm(white - means[nearest], dim=1)
        return distances

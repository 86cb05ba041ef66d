"""Distance to the tangent plane of the reference: local principal components of the neighbors.

Ours, beside the distances of Jha, Jang, Jha, Jalaian, MILCOM 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isthmus.detection.neighbors import NeighborScore

DIMENSION = 12
"""Largest dimension of a tangent plane."""

_FLAT = 1e-4
"""Directions in which neighbors spread by less than this share of the widest are not of the
plane: they are rounding, and any direction may come out of it."""


class Tangent(NeighborScore):
    """Distance to the plane through the neighbors' mean along their principal directions, 12 at
    most.
    """

    def local(self, x: Tensor, near: Tensor) -> Tensor:
        """Return the distances to the planes through the neighbors `near`, (n,)."""
        mean = near.mean(1)
        spread = near - mean[:, None]
        variances, mixtures = torch.linalg.eigh(spread @ spread.mT)  # ascending
        variances = variances[:, -DIMENSION:]
        mixtures = mixtures[:, :, -DIMENSION:]
        wide = variances > _FLAT**2 * variances[:, -1:]
        scale = torch.where(wide, variances, torch.ones_like(variances)).rsqrt() * wide
        directions = scale[:, :, None] * (mixtures.mT @ spread)
        away = x - mean
        along = (directions @ away[:, :, None]).mT @ directions
        heights: Tensor = torch.linalg.vector_norm(away - along.squeeze(1), dim=1)
        return heights

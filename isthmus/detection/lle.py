"""Residual of the best affine combination of the nearest reference rows, in the ambient space.

Source: Roweis and Saul, Science 2000, for the weights; Jha, Jang, Jha, Jalaian, MILCOM 2018, for
locally linear embedding as a detector. Where we depart: an embedding maps a new point into the
span of its neighbors and cannot see what is off it, so the residual is measured before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isthmus.detection.neighbors import NeighborScore

REGULARIZATION = 1e-3
"""Weight of the squared weights, as a share of the trace of the Gram matrix."""


class Lle(NeighborScore):
    """Distance of an input to the point that its neighbors, weighted as in LLE, reconstruct."""

    def local(self, x: Tensor, near: Tensor) -> Tensor:
        """Return the distances to the reconstructions from the neighbors `near`, (n,)."""
        away = near - x[:, None]
        gram = away @ away.mT
        trace = gram.diagonal(dim1=1, dim2=2).sum(1)
        added = REGULARIZATION * trace + torch.finfo(gram.dtype).tiny ** 0.5
        one = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        ones = torch.ones_like(gram[:, :, :1])
        weights = torch.linalg.solve(gram + added[:, None, None] * one, ones)
        weights = weights / weights.sum(1, keepdim=True)
        residuals: Tensor = torch.linalg.vector_norm((weights.mT @ away).squeeze(1), dim=1)
        return residuals

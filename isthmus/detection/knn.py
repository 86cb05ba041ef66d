"""Mean distance to the nearest reference rows, in l2 and in l-inf.

Source: Jha, Jang, Jha, Jalaian, MILCOM 2018, whose experiments use l-inf with a bounded number of
neighbors. The paper leaves open how these are chosen: here they are the nearest in l2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isthmus.detection.neighbors import NeighborScore


class Knn(NeighborScore):
    """Mean l2 distance to the neighbors."""

    def local(self, x: Tensor, near: Tensor) -> Tensor:
        """Return the mean l2 distances to the neighbors `near`, (n,)."""
        distances: Tensor = torch.linalg.vector_norm(x[:, None] - near, dim=2)
        return distances.mean(1)


class KnnLinf(NeighborScore):
    """Mean l-inf distance to the neighbors.

    On images of strokes it saturates at 1: one pixel of full contrast is enough.
    """

    def local(self, x: Tensor, near: Tensor) -> Tensor:
        """Return the mean l-inf distances to the neighbors `near`, (n,)."""
        return (x[:, None] - near).abs().amax(2).mean(1)

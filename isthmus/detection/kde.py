"""Minus the log of a Gaussian kernel density over the nearest reference rows.

Source: Jha, Jang, Jha, Jalaian, MILCOM 2018: a Gaussian kernel whose bandwidth has the largest
likelihood on the training data. Here the likelihood leaves each row itself out, without which the
best bandwidth is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import ClassVar, Self

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from isthmus.detection.neighbors import NeighborScore, check_neighbors

_ROWS = 1000
"""How many reference rows the bandwidth is chosen on."""


@dataclass(frozen=True, eq=False)
class Kde(NeighborScore):
    """-log of the mean of exp(-distance^2 / (2 bandwidth^2)) over the neighbors; at least 0."""

    bandwidth: Tensor

    dimensions: ClassVar[dict[str, str]] = {**NeighborScore.dimensions, "bandwidth": ""}
    positive: ClassVar[tuple[str, ...]] = ("bandwidth",)

    @classmethod
    def fit(cls, features: tuple[Tensor, ...], labels: Tensor, neighbors: int) -> Self:
        """Return the score with the bandwidth of the largest likelihood.

        Raises BadInput where there are fewer rows than neighbors.
        """
        (reference,) = features
        check_neighbors(neighbors, len(reference))
        reference = reference.float().cpu().contiguous()
        plain = cls(reference, neighbors, torch.tensor(1.0, dtype=torch.float64))
        return cls(reference, neighbors, torch.tensor(_bandwidth(plain), dtype=torch.float64))

    def local(self, x: Tensor, near: Tensor) -> Tensor:
        """Return minus the log of the mean kernel over the neighbors `near`, (n,)."""
        return -_log_mean(_squares(x, near), self.bandwidth.to(x.device))


def _squares(x: Tensor, near: Tensor) -> Tensor:
    return (x[:, None] - near).square().sum(2)


def _log_mean(squares: Tensor, bandwidth: Tensor | float) -> Tensor:
    """Return the log of the mean kernel over the neighbors of squared distances (n, k)."""
    exponents = -squares / (2 * bandwidth**2)
    return exponents.logsumexp(1) - log(squares.shape[1])


@torch.no_grad()
def _bandwidth(score: Kde) -> float:
    """Return the bandwidth at which rows left out are likeliest."""
    count = min(score.neighbors, len(score.reference) - 1)
    if not count:
        return 1.0
    rows = score.reference[:_ROWS]
    squares = score.by_parts(rows, score.others(_ROWS, count), _squares)
    typical = float(squares.mean().sqrt())
    if typical == 0:
        return 1.0
    dimension = rows.shape[1]

    def unlikely(log_width: float) -> float:
        densities = _log_mean(squares, exp(log_width)) - dimension * log_width
        return -float(densities.mean())

    ends = (log(typical) - 7, log(typical) + 3)
    return exp(float(minimize_scalar(unlikely, bounds=ends, method="bounded").x))

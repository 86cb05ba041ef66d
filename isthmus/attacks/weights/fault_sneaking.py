"""Errors injected by the change of fewest weights, or of smallest norm, by the alternating
direction method.

Source: the fault-sneaking attack that Zhao et al., ICLR 2020, name in section 3.3 (Zhao et al.,
DAC 2019): minimize D(delta) + G(delta) with D the number of changed
weights (l0) or ||delta||_2 (l2), by ADMM with the splitting z = delta and linearized steps on G.

Where we depart: the iteration starts from a change that works, found by gradient descent with
hardly a penalty, because from zero it stalled (measured on the digits); rho falls as it goes; the
linearized step has the length 1 / rho, and G, divided by the number of images, a strength that
keeps pace with rho; returned is the z of smallest D among those that succeed, not the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
from torch import Tensor, nn

from isthmus.attacks.weights.errors import LEAST_KEPT
from isthmus.attacks.weights.hinges import Hinges, Injected, Smallest
from isthmus.attacks.weights.penalized import Penalized
from isthmus.data.dataset import Data
from isthmus.types import BadInput

Norm = Literal["l0", "l2"]


_SLIGHT = 1e-3  # lambda of the warm-up


def size_of(delta: Tensor, norm: Norm) -> float:
    """Return D(delta): how many entries are not zero, or the Euclidean norm."""
    return float(delta.count_nonzero() if norm == "l0" else delta.norm())


def proximal(v: Tensor, rho: float, norm: Norm) -> Tensor:
    """Return argmin_z D(z) + (rho / 2) ||z - v||_2^2, of the shape of v: hard thresholding, or
    shrinkage of the whole.

    >>> proximal(torch.tensor([3.0, 0.5]), rho=2.0, norm="l0")
    tensor([3., 0.])
    >>> proximal(torch.tensor([3.0, 4.0]), rho=1.0, norm="l2")
    tensor([2.4000, 3.2000])
    """
    if norm == "l0":
        return torch.where(v.abs() > sqrt(2 / rho), v, 0.0)
    shrunk: Tensor = v * (1 - 1 / (rho * v.norm()).clamp_min(torch.finfo(v.dtype).tiny)).clamp_min(
        0
    )
    return shrunk


@dataclass(frozen=True)
class FaultSneaking:
    """ADMM on D(delta) + strength G(delta) / R, D named by `norm`, for `steps` iterations.

    rho goes from the first of `rho` to the second along an exponential, so that the threshold of
    l0, sqrt(2 / rho), rises and prunes more and more; strength / rho is `lr`, which falls to 0
    along a line. The change to start from is what `warm_up` steps of `Penalized` find at a slight
    penalty. `weight` is c, `kappa` the margin to reach, `least` the share of the other images that
    has to keep its label.
    """

    norm: Norm = "l0"
    layers: Sequence[str] = ()
    weight: float = 10.0
    kappa: float = 1.0
    steps: int = 800
    lr: float = 0.3
    rho: tuple[float, float] = (1000.0, 10.0)
    warm_up: int = 400
    least: float = LEAST_KEPT

    def __post_init__(self) -> None:
        if (
            self.norm not in ("l0", "l2")
            or min(self.steps, self.warm_up) < 1
            or not min(self.lr, *self.rho) > 0
        ):
            raise BadInput(
                f"norm {self.norm!r}, {self.steps} steps of {self.lr:g} after {self.warm_up}, "
                f"rho {self.rho}",
                expected="l0 or l2, and numbers above zero",
                fix="leave out what you need not change",
            )

    def __call__(self, network: nn.Module, errors: Data, kept: Data) -> Injected:
        """Return the network with the errors. Raises BadInput where no z on the way succeeds."""
        hinges = Hinges(network, errors, kept, self.layers, weight=self.weight, kappa=self.kappa)
        smallest = Smallest(hinges, self.least, lambda z: size_of(z, self.norm))
        delta = Penalized(steps=self.warm_up).minimized(
            hinges, _SLIGHT, torch.zeros_like(hinges.start)
        )
        dual, z, (first, last) = torch.zeros_like(delta), delta, self.rho
        shrink = (last / first) ** (1 / self.steps)
        for step in range(self.steps):
            z = proximal(delta - dual, first * shrink**step, self.norm)
            smallest.note(z, hinges.logits(z))
            gradient = hinges.gradient(delta)[0] / len(hinges.y)
            delta = (
                z + dual - self.lr * (1 - step / self.steps) * gradient
            )  # the quadratic part solved exactly
            dual = (dual + z - delta) / shrink  # a scaled dual is one over rho
        return smallest.injected(z, "take more steps, name more layers, or inject fewer errors")

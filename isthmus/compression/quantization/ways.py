"""Ways to a quantized network: what it sees of its grid while it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from isthmus.types import BadInput


class Quantizer(Protocol):
    """A way to quantize: what the network sees while it is trained, if it is."""

    @property
    def relaxed(self) -> float:
        """The share of the budget before the weights are on the grid."""

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""


@dataclass(frozen=True)
class BinaryRelax:
    """Weights approach their grid while they are trained, and are on it in a final phase.

    The network sees (eta Q(W) + W) / (1 + eta), with eta from 1 to 349 in the first share `relaxed`
    of the budget, and Q(W) after that; the gradient is taken there and moves W. Source: Yin et al.,
    SIAM J. Imaging Sci. 2018; Li et al., arXiv 2008.13305, whose script relaxes in 120 of 200
    epochs. Where we depart: eta grows with the budget and not by epochs. Raises BadInput where the
    share is not in (0, 1).
    """

    relaxed: float = 0.6
    trains: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.relaxed < 1:
            raise BadInput(
                f"relaxed = {self.relaxed:g}",
                expected="a share in (0, 1): the rest of the budget is trained on the grid",
                fix="pass relaxed=0.6, or StraightThrough() for none",
            )


@dataclass(frozen=True)
class StraightThrough:
    """Weights are on their grid from the first step; the gradient passes straight through.

    Source: Courbariaux et al., BinaryConnect, NeurIPS 2015.
    """

    relaxed: float = 0.0
    trains: bool = True


@dataclass(frozen=True)
class PostTraining:
    """Weights are rounded, nothing is trained, and BatchNorm is recalibrated."""

    relaxed: float = 0.0
    trains: bool = False

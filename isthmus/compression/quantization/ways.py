"""Ways to a quantized network: what it sees of its grid while it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from isthmus.training.options import require_numbers
from isthmus.types import BadInput


class Quantizer(Protocol):
    """A way to quantize: what the network sees of its grid while it is trained, if it is."""

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""

    def seen(self, weight: Tensor, rounded: Tensor, spent: float) -> Tensor:
        """Return what the network computes with, of the shape of the weight.

        `rounded` is the weight on its grid, and `spent` the share of the budget that is spent, in
        [0, 1]; at 1 the weight has to be on the grid.
        """


@dataclass(frozen=True)
class BinaryRelax:
    """Weights approach their grid while they are trained, and are on it in a final phase.

    The network sees (eta Q(W) + W) / (1 + eta), with eta from 1 to 349 in the first share `relaxed`
    of the budget, and Q(W) after that; the gradient is taken there and moves W. Source: Yin et al.,
    SIAM J. Imaging Sci. 2018; Li et al., arXiv 2008.13305, whose script relaxes in 120 of 200
    epochs. Where we depart: eta grows with the budget and not by epochs. Raises BadInput where the
    share is not in (0, 1).
    """

    trains: ClassVar[bool] = True
    steepest: ClassVar[float] = 349.0
    relaxed: float = 0.6

    def __post_init__(self) -> None:
        require_numbers(self, "relaxed")
        if not 0 < self.relaxed < 1:
            raise BadInput(
                f"relaxed = {self.relaxed:g}",
                expected="a share in (0, 1): the rest of the budget is trained on the grid",
                fix="pass relaxed=0.6, or StraightThrough() for none",
            )

    def seen(self, weight: Tensor, rounded: Tensor, spent: float) -> Tensor:
        """Return a value between the weight and its level, and the level in the final phase."""
        if spent >= self.relaxed:
            return rounded
        eta: float = self.steepest ** (spent / self.relaxed)
        return (eta * rounded + weight) / (1 + eta)


@dataclass(frozen=True)
class StraightThrough:
    """Weights are on their grid from the first step; the gradient passes straight through.

    Source: Courbariaux et al., BinaryConnect, NeurIPS 2015.
    """

    trains: ClassVar[bool] = True

    def seen(self, weight: Tensor, rounded: Tensor, spent: float) -> Tensor:
        """Return the rounded weight."""
        return rounded


@dataclass(frozen=True)
class PostTraining:
    """Weights are rounded, and nothing is trained but BatchNorm's statistics, which are fitted."""

    trains: ClassVar[bool] = False

    def seen(self, weight: Tensor, rounded: Tensor, spent: float) -> Tensor:
        """Return the rounded weight."""
        return rounded

"""What a defense spends, at most and as it was run: the base of those that train, and the cost of a
second endpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

from torch import nn

from isthmus.data.dataset import Source
from isthmus.training.budget import Training
from isthmus.types import BadInput, Defense


@dataclass(frozen=True, eq=False)
class Made:
    """A network that a defense made, the gradient evaluations that were run for it, and the
    defenses that trained, in their order: each as it would be alone, at the rate that it trained
    at.
    """

    network: nn.Module
    gradients: int
    runs: tuple[Trained, ...] = ()


@dataclass(frozen=True)
class Trained(ABC):
    """A defense that trains: `training.steps` counts gradient evaluations, whatever its steps cost.

    A subclass writes `__call__`. Raises BadInput where `training` is no `Training`.
    """

    training: Training

    def __post_init__(self) -> None:
        if not isinstance(self.training, Training):
            raise BadInput(
                f"training as {type(self.training).__name__}",
                expected="a Training",
                fix="pass Training(steps=400, lr=0.05)",
            )

    @abstractmethod
    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the repaired network, in eval mode; the tampered one stays as it is."""

    def recorded(self, tampered: nn.Module, bonafide: Source) -> Made:
        """Return the repaired network and what was run for it: less than `gradients` for a defense
        that may stop early, which writes this method too.
        """
        return Made(self(tampered, bonafide), self.gradients, (self,))

    @property
    def gradients(self) -> int:
        """How many gradient evaluations the defense takes in all, at most."""
        return self.training.steps

    def within(self, gradients: int) -> Self:
        """Return the defense at a budget of this many gradient evaluations."""
        return replace(self, training=self.training.replace(steps=gradients))


def gradients_of(other: nn.Module | Defense | None) -> int:
    """Return how many gradient evaluations it takes to make a network: 0 where it is given, and
    where None leaves it to a defense that pays for it itself.

    A plain function, which is not a `Defense` to the letter, counts as one that trains nothing.
    """
    if other is None or isinstance(other, nn.Module):
        return 0
    return int(getattr(other, "gradients", 0))


def recorded(defense: Defense, tampered: nn.Module, bonafide: Source) -> Made:
    """Return what a defense makes of the tampered network, and what was run for it."""
    own = getattr(defense, "recorded", None)
    if own is not None:
        made: Made = own(tampered, bonafide)
        return made
    return Made(defense(tampered, bonafide), gradients_of(defense))


def made_by(other: nn.Module | Defense, tampered: nn.Module, bonafide: object) -> nn.Module:
    """Return the network itself, or what the defense makes of the tampered network."""
    return other if isinstance(other, nn.Module) else other(tampered, bonafide)

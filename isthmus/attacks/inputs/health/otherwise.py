"""An attack that runs another one under other conditions than its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn

from isthmus.attacks.inputs.health.by_products import AttackWatch, watching
from isthmus.types import Attack


@dataclass(frozen=True)
class Otherwise(ABC):
    """Runs `attack`: draws where that one does, and its runs are remembered alike."""

    attack: Attack

    @property
    def gradients(self) -> int:
        """How many gradients the attack costs a sample."""
        return self.attack.gradients

    @property
    def random(self) -> bool:
        """Whether the attack draws, as its own `random` says."""
        return bool(getattr(self.attack, "random", False))

    @abstractmethod
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked inputs, of the shape, type and device of x."""

    def remembering(self) -> AbstractContextManager[AttackWatch]:
        """Return a block that remembers this attack's runs, and can say how healthy they were."""
        return watching(self)

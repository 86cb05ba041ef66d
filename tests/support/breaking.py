"""A loss that breaks off a training."""

from dataclasses import dataclass, field

from isthmus.training import cross_entropy


class Stopped(Exception):
    """Somebody stopped the run."""


@dataclass(frozen=True)
class Fragile:
    """Cross-entropy that fails after a number of steps, in a list that is no part of the loss."""

    left: list = field(repr=False)

    def __call__(self, model, x, y):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise Stopped
        return cross_entropy(model, x, y)

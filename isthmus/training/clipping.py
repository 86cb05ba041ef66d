"""Gradients scaled down to a largest norm."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from isthmus.models.parametrized import parametrized_in


@runtime_checkable
class Holding(Protocol):
    """A parametrization that holds values of a tensor where they are, and may let gradients of them
    pass all the same: a method that looks for what to let go reads them.
    """

    def moving(self, gradient: Tensor) -> Tensor:
        """Return the gradient with 0 for all values that are held."""


def clip_gradients(module: nn.Module, most: float) -> None:
    """Scale all gradients down where the norm of those that move something exceeds `most`.

    Gradients of values that a parametrization holds do not count, and are scaled as the others.
    """
    gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    for each in parametrized_in(module):
        original = f"{each.path}.{each.original}" if each.path else each.original
        for member in each.maps:
            if isinstance(member, Holding) and original in gradients:
                gradients[original] = member.moving(gradients[original])
    norm = nn.utils.get_total_norm(list(gradients.values()))
    nn.utils.clip_grads_with_norm_(module.parameters(), most, norm)

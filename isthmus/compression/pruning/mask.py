"""A mask on a weight, as a parametrization: masked values are 0 whatever trains the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from isthmus.models.parametrized import parametrized_in


class _DenseGradient(torch.autograd.Function):
    """Mask the value and leave the gradient as it is, also where the mask is off."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor) -> Tensor:
        """Return the masked weight."""
        return weight.masked_fill(~mask, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the weight, dense."""
        return grads[0], None


class _ScoreGradient(torch.autograd.Function):
    """Mask the weight; the gradient goes to the scores as if they multiplied the weight."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """Return the masked weight."""
        ctx.save_for_backward(weight)
        return weight.masked_fill(~mask, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        """Return the gradient of the scores."""
        (weight,) = ctx.saved_tensors
        return None, grads[0] * weight, None


_dense_gradient = cast("Callable[[Tensor, Tensor], Tensor]", _DenseGradient.apply)
_score_gradient = cast("Callable[[Tensor, Tensor, Tensor], Tensor]", _ScoreGradient.apply)


class Mask(nn.Module):
    """A parametrization that returns the tensor where the mask is on, and 0 elsewhere.

    The mask is a buffer: it is saved, loaded and moved with the network. Off the mask no gradient
    comes back. While a method looks for a mask, `momentum` is a buffer that sums dense gradients,
    `anchor` one of the values that a loss pulls the weight to, and `scores` a parameter that is
    trained in the place of the weight; all are None otherwise.
    """

    mask: Tensor
    momentum: Tensor | None
    anchor: Tensor | None

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(like, dtype=torch.bool))
        self.register_buffer("momentum", None)
        self.register_buffer("anchor", None)
        self.scores: nn.Parameter | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked tensor."""
        if self.scores is not None:
            return _score_gradient(weight, self.scores, self.mask)
        if self.momentum is not None:
            return _dense_gradient(weight, self.mask)
        return weight.masked_fill(~self.mask, 0.0)

    def moving(self, gradient: Tensor) -> Tensor:
        """Return the part of a gradient that moves the weight; all of it where none is dense."""
        return gradient if self.momentum is None else gradient.masked_fill(~self.mask, 0.0)


def masked(part: nn.Module, name: str) -> Held:
    """Put a mask, on everywhere, on a parameter of a module."""
    mask = Mask(getattr(part, name))
    parametrize.register_parametrization(part, name, mask)
    return Held(part, name, mask)


class Held:
    """A parameter under a mask: where it stands, the values behind the mask, and the mask."""

    def __init__(self, part: nn.Module, name: str, mask: Mask) -> None:
        self.part = part
        self.name = name
        self.mask = mask

    @property
    def original(self) -> nn.Parameter:
        """The values behind the mask."""
        return self.part.get_parameter(f"parametrizations.{self.name}.original")

    @torch.no_grad()
    def keep(self, mask: Tensor) -> None:
        """Set the mask, and the values off it to 0."""
        self.mask.mask.copy_(mask.view(self.mask.mask.shape))
        self.project()

    @torch.no_grad()
    def project(self) -> None:
        """Set the values off the mask to 0."""
        self.original.masked_fill_(~self.mask.mask, 0.0)

    @torch.no_grad()
    def gather(self, momentum: float) -> None:
        """Add the last gradient to the momentum."""
        if self.mask.momentum is not None and self.original.grad is not None:
            self.mask.momentum.mul_(momentum).add_(self.original.grad)


def held_in(model: nn.Module) -> dict[str, Held]:
    """Return the masked parameters of a network by the names they have without their masks."""
    return {
        each.name: Held(each.part, each.leaf, member)
        for each in parametrized_in(model)
        for member in each.maps
        if isinstance(member, Mask)
    }

"""A weight on a grid, as a parametrization, on its way there while the network is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from isthmus.compression.quantization.grids import Grid
from isthmus.training.share import budget_share


class _Seen(torch.autograd.Function):
    """Replace a value by another; the gradient passes as it is (straight through)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, seen: Tensor) -> Tensor:
        """Return a copy of the other value."""
        return seen.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient."""
        return grads[0], None


_straight_through = cast("Callable[[Tensor, Tensor], Tensor]", _Seen.apply)


class RoundedWeight(nn.Module):
    """A parametrization that returns the weight rounded to a grid; gradients pass straight through.

    While `fit` is in the first share `relaxed` of its budget, it returns (eta Q(W) + W) / (1 + eta)
    instead, with eta growing from 1 to `steepest` geometrically. Outside of training it is Q(W).
    """

    def __init__(self, grid: Grid, relaxed: float = 0.0, steepest: float = 349.0) -> None:
        super().__init__()
        self.grid = grid
        self.relaxed = relaxed
        self.steepest = steepest

    def forward(self, weight: Tensor) -> Tensor:
        """Return what the network computes with."""
        spent = budget_share()
        seen = self.grid.rounded(weight.detach())
        if spent < self.relaxed:
            eta = self.steepest ** (spent / self.relaxed)
            seen = (eta * seen + weight.detach()) / (1 + eta)
        return _straight_through(weight, seen)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"{self.grid}, relaxed={self.relaxed:g}"


def rounded_in(model: nn.Module) -> dict[str, tuple[RoundedWeight, nn.Parameter]]:
    """Return the quantized weights by name: their parametrization and the values behind it."""
    found = {}
    for path, part in model.named_modules():
        if not parametrize.is_parametrized(part):
            continue
        for name, listed in cast(nn.ModuleDict, part.parametrizations).items():
            for member in cast(nn.ModuleList, listed):
                if isinstance(member, RoundedWeight):
                    held = part.get_parameter(f"parametrizations.{name}.original")
                    found[f"{path}.{name}" if path else name] = (member, held)
    return found


def round_weight(layer: nn.Module, grid: Grid, relaxed: float = 0.0) -> None:
    """Put a layer's weight on a grid."""
    with torch.no_grad():
        parametrize.register_parametrization(layer, "weight", RoundedWeight(grid, relaxed))

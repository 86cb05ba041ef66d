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

    In eval mode, a weight that has the values of the last pass is not fitted to the grid again,
    which takes many times as long as a pass. Both are held in memory; copies and pickles do
    without.
    """

    _last: tuple[Tensor, Tensor] | None = None
    """The weight of the last pass in eval mode, and what it was rounded to."""

    def __init__(self, grid: Grid, relaxed: float = 0.0, steepest: float = 349.0) -> None:
        super().__init__()
        self.grid = grid
        self.relaxed = relaxed
        self.steepest = steepest

    def forward(self, weight: Tensor) -> Tensor:
        """Return what the network computes with."""
        spent = budget_share()
        seen = self._rounded(weight.detach())
        if spent < self.relaxed:
            eta = self.steepest ** (spent / self.relaxed)
            seen = (eta * seen + weight.detach()) / (1 + eta)
        return _straight_through(weight, seen)

    def _rounded(self, weight: Tensor) -> Tensor:
        """Return the weight on its grid, in eval mode from memory where it is the same.

        Values are compared, because a change by `weight.data` leaves no other trace.
        """
        if self.training:
            self._last = None
            return self.grid.rounded(weight)
        last = self._last
        if last is None or not _same(last[0], weight):
            last = self._last = (weight.clone(), self.grid.rounded(weight))
        return last[1]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the memory."""
        return {name: value for name, value in self.__dict__.items() if name != "_last"}

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"{self.grid}, relaxed={self.relaxed:g}"


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether tensors have the same values, of the same type, on the same device."""
    if (one.device, one.dtype) != (other.device, other.dtype):
        return False
    return torch.equal(one, other)


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

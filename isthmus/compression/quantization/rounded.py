"""A weight on a grid, as a parametrization, on its way there while the network is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from isthmus.compression.quantization.grids import Grid
from isthmus.compression.quantization.ways import Quantizer
from isthmus.models.parametrized import parametrized_in
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


@dataclass(frozen=True)
class OnGrid:
    """A weight, the levels (int8) and the scale () that fit it best, and it on its grid."""

    weight: Tensor
    levels: Tensor
    scale: Tensor
    rounded: Tensor


class RoundedWeight(nn.Module):
    """A parametrization that returns the weight rounded to a grid; gradients pass straight through.

    While `way` is there, it says what the network sees instead at each share of the budget of a
    running `fit`; outside of training that is the rounded weight, as it is without a way.

    A weight that has the values of the last pass is not fitted to the grid again, which takes many
    times as long as a pass: the passes of an attack fit it once. Both are held in memory, which
    copies share, and pickles do without.
    """

    _last: OnGrid | None = None

    def __init__(self, grid: Grid, way: Quantizer | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.way = way

    def forward(self, weight: Tensor) -> Tensor:
        """Return what the network computes with."""
        seen = self.fitted(weight).rounded
        if self.way is not None:
            seen = self.way.seen(weight.detach(), seen, budget_share())
        return _straight_through(weight, seen)

    def fitted(self, weight: Tensor) -> OnGrid:
        """Return the fit of the weight, from memory where it has the values of the last one.

        Values are compared, because a change by `weight.data` leaves no other trace.
        """
        weight = weight.detach()
        last = self._last
        if last is None or not _same(last.weight, weight):
            levels, scale = self.grid.fit(weight)
            rounded = levels.to(weight.dtype) * scale.to(weight.dtype)
            last = self._last = OnGrid(weight.clone(), levels.to(torch.int8), scale, rounded)
        return last

    def __deepcopy__(self, _: dict[int, Any]) -> RoundedWeight:
        """Return a copy with the same memory, which nobody writes into."""
        other = RoundedWeight(self.grid, self.way).train(self.training)
        other._last = self._last
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the memory."""
        return {name: value for name, value in self.__dict__.items() if name != "_last"}

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"{self.grid}" if self.way is None else f"{self.grid}, {self.way}"


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether tensors have the same values, of the same type, on the same device, and lie
    alike in memory, on which the last digits of a pass depend.
    """
    if (one.device, one.dtype, one.stride()) != (other.device, other.dtype, other.stride()):
        return False
    return torch.equal(one, other)


def rounded_in(model: nn.Module) -> dict[str, tuple[RoundedWeight, nn.Parameter]]:
    """Return the quantized weights by name: their parametrization and the values behind it."""
    return {
        each.name: (member, each.part.get_parameter(each.original))
        for each in parametrized_in(model)
        for member in each.maps
        if isinstance(member, RoundedWeight)
    }


def round_weight(layer: nn.Module, grid: Grid, way: Quantizer | None = None) -> None:
    """Put a layer's weight on a grid; while it is trained the way says what the network sees."""
    with torch.no_grad():
        parametrize.register_parametrization(layer, "weight", RoundedWeight(grid, way))

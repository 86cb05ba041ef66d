"""Intervals around every value of a network, for all inputs of a box.

Source: Gowal et al., ICCV 2019 (intervals through layers); Jafarpour et al., L4DC 2022 (the mixed
monotone embedding of a fixed point, the relative classifier). With `outward`, every operation
widens its result by a bound of its own rounding error, and a fixed point by the distance that its
residual allows, so the box holds in exact arithmetic. Without, it has gradients, for training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.models.bounds.bound import Bound, NoBound, Product
from isthmus.models.fixed_point import (
    Embedded,
    Solver,
    Weights,
    equilibrium,
    iteration,
    sensitivity,
)

_FEW = 32  # classes whose pairs are all computed, in one product
_GATHERED = 2 * 10**7  # values of a gathered tensor: 160 MB

# The rounding of one operation on float32 inputs in [0, 1]: an attacked input may lie that far
# outside of its ball.
_INPUT_ROUNDING = 2.0**-24


@dataclass(eq=False)
class Box(Bound):
    """lower <= value <= upper, both (n, ...). `mixed` bounds fixed points by the mixed monotone
    embedding, otherwise by intervals.
    """

    lower: Tensor
    upper: Tensor
    mixed: bool = True
    outward: bool = False
    source: tuple[Box, Tensor, Tensor] | None = None

    @classmethod
    def around(cls, x: Tensor, eps: float, *, mixed: bool = True) -> Box:
        """Return all inputs in [0, 1] within eps of x (n, ...), for training."""
        return cls((x - eps).clamp(0, 1), (x + eps).clamp(0, 1), mixed)

    @classmethod
    def sound(cls, x: Tensor, eps: float, *, mixed: bool = True) -> Box:
        """Return the box in float64, with outward rounding; it holds x + eps in float32 too."""
        x = x.double()
        reach = eps + _INPUT_ROUNDING if eps else 0.0
        box = cls((x - reach).clamp_(0, 1), (x + reach).clamp_(0, 1), mixed, outward=True)
        assert not eps or bool((box.lower < box.upper).all())
        return box

    @property
    def like(self) -> Tensor:
        return self.lower

    @property
    def middle(self) -> Tensor:
        """The center of the box."""
        return torch.lerp(self.lower, self.upper, 0.5)

    @property
    def radius(self) -> Tensor:
        """Half the width of the box."""
        return (self.upper - self.lower) / 2

    @property
    def unit(self) -> float:
        """The relative error of one operation."""
        return torch.finfo(self.dtype).eps / 2

    def largest(self) -> Tensor:
        """Return the largest absolute value of each sample, (n, 1, ...)."""
        size = torch.maximum(-self.lower.flatten(1).amin(1), self.upper.flatten(1).amax(1))
        return size.view(-1, *[1] * (self.ndim - 1))

    def _new(self, lower: Tensor, upper: Tensor) -> Self:
        return replace(self, lower=lower, upper=upper, source=None)

    def _widened(self, lower: Tensor, upper: Tensor, operations: int) -> Self:
        """Return the box, widened by the operations' rounding errors where it is to be sound."""
        if self.outward:
            slack = operations * self.unit * torch.maximum(lower.abs(), upper.abs())
            lower = lower - slack
            upper = upper + slack
        return self._new(lower, upper)

    def affine(self, product: Product, weight: Tensor, bias: Tensor | None) -> Self:
        weight = self.cast(weight)
        middle = product(self.middle, weight)
        radius = product(self.radius, weight.abs())
        if bias is not None:
            bias = self.cast(bias)
            middle = middle + bias
        if self.outward:
            radius = radius + self._rounding(weight, bias, middle.ndim)
        out = self._new(middle - radius, middle + radius)
        if product is F.linear and middle.ndim == 2:
            out.source = (self, weight, torch.zeros_like(weight[:, 0]) if bias is None else bias)
        return out

    def _rounding(self, weight: Tensor, bias: Tensor | None, ndim: int) -> Tensor:
        """Return a bound of a product's rounding error, somewhat over terms * unit * |W| |x|."""
        rows = weight.abs().flatten(1).sum(1)
        rows = rows.view(-1, *[1] * (ndim - 2))
        size = rows * self.largest().view(-1, *[1] * (ndim - 1))
        if bias is not None:
            size = size + bias.abs()
        return (weight[0].numel() + 16) * self.unit * size

    def times(self, factor: Tensor | float) -> Self:
        if isinstance(factor, Tensor):
            factor = self.cast(factor)
        one = self.lower * factor
        other = self.upper * factor
        return self._widened(torch.minimum(one, other), torch.maximum(one, other), 4)

    def plus(self, other: Any) -> Self:
        if isinstance(other, Tensor):
            other = self.cast(other)
        lower = self.lower + (other.lower if isinstance(other, Box) else other)
        upper = self.upper + (other.upper if isinstance(other, Box) else other)
        return self._widened(lower, upper, 4)

    def monotone(self, function: Callable[[Tensor], Tensor], slope: float) -> Self:
        return self._widened(function(self.lower), function(self.upper), 16)

    def pooled(self, function: Callable[[Tensor], Tensor], terms: int) -> Self:
        lower = function(self.lower)
        upper = function(self.upper)
        if self.outward:
            slack = (terms + 4) * self.unit * self.largest().view(-1, *[1] * (lower.ndim - 1))
            lower = lower - slack
            upper = upper + slack
        return self._new(lower, upper)

    def arranged(self, function: Callable[[Tensor], Tensor]) -> Self:
        return self._new(function(self.lower), function(self.upper))

    def joined(self, function: Callable[[list[Tensor]], Tensor], parts: Sequence[Any]) -> Self:
        lower = [part.lower if isinstance(part, Box) else self.cast(part) for part in parts]
        upper = [part.upper if isinstance(part, Box) else self.cast(part) for part in parts]
        return self._new(function(lower), function(upper))

    def padded(self, function: Callable[[Tensor], Tensor], value: float) -> Self:
        return self.arranged(function)

    def fixed_point(self, operator: Weights, rough: Solver, fine: Solver) -> Self:
        if self.outward:
            return self._proved(operator, fine)
        spread = operator.metzler() if self.mixed else operator.absolute()
        injected = torch.cat([self.lower, self.upper])
        z, _ = equilibrium(Embedded(operator, spread), injected, rough)
        lower, upper = z.chunk(2)
        return self._new(lower, upper)

    def _proved(self, operator: Weights, solver: Solver) -> Self:
        """Solve in the operator's own precision, then prove in that of the box how far it can be.

        The box holds the fixed points, every state z that the stop rule accepts, and what one step
        makes of such a z: one of these is what the network computes.
        """
        exact = operator.to(self.dtype)
        spread = exact.metzler() if self.mixed else exact.absolute()
        v = sensitivity(spread, self.lower[:1])
        if v is None:
            raise NoBound
        injected = torch.cat([self.lower, self.upper])
        precision = operator.diagonal.dtype
        fast = Embedded(exact.to(precision), spread.to(precision))
        z, solution = solver.solve(fast, injected.to(precision))
        if not solution.converged:
            raise NoBound
        z = z.to(self.dtype)
        pair = Embedded(exact, spread)
        change = (iteration(pair, injected)(z) - z).abs_() + self._noise(exact, z, injected)
        change = change * ((1 - pair.diagonal) / (1 - spread.diagonal))
        lower, upper = z.chunk(2)
        reach = torch.maximum(*_worst(change).chunk(2)) * v
        stop = solver.tolerance * (1 + _worst(upper + reach)) * v
        reach = (reach + stop) * (1 + 64 * self.unit)
        return self._new((lower - reach).clamp_min_(0), (upper + reach).clamp_min_(0))

    def _noise(self, operator: Weights, z: Tensor, injected: Tensor) -> Tensor:
        """Return a bound of the rounding error of a direct step, in any order of its terms."""
        rows = operator.absolute()(torch.ones_like(z[:1]))
        sums = rows * _worst(z) + injected.abs()
        return (operator.fan + 32) * self.unit * sums / (1 - operator.diagonal.clamp_max(0))

    def margins(self, y: Tensor, *, relative: bool = True) -> Tensor:
        """Return lower bounds of logit y minus each logit, (n, classes); 0 at y itself.

        Relative: the last linear layer is bounded together with the difference (L4DC 2022, Lemma
        3).
        """
        index = y[:, None]
        if relative and self.source is not None:
            bounds = self._relative(y, *self.source)
        else:
            bounds = self.lower.gather(1, index) - self.upper
            if self.outward:
                bounds = bounds - 4 * self.unit * self.largest()
        return bounds.scatter(1, index, 0.0)

    def _relative(self, y: Tensor, inside: Box, weight: Tensor, bias: Tensor) -> Tensor:
        logits = F.linear(inside.middle, weight, bias)
        bounds = logits.gather(1, y[:, None]) - logits - _moved(weight, inside.radius, y)
        if not self.outward:
            return bounds
        rows = weight.abs().sum(1).amax() * inside.largest() + bias.abs().amax()
        return bounds - 4 * (weight.shape[1] + 16) * self.unit * rows


def _moved(weight: Tensor, radius: Tensor, y: Tensor) -> Tensor:
    """Return |W_y - W_j| r for each sample and each class j, (n, classes)."""
    classes, width = weight.shape
    pairs = (weight[:, None] - weight[None]).abs()
    if classes <= _FEW:
        moved = F.linear(radius, pairs.view(-1, width)).view(-1, classes, classes)
        return moved[torch.arange(len(y), device=y.device), y]
    size = max(1, _GATHERED // (classes * width))
    parts = zip(radius.split(size), y.split(size), strict=True)
    return torch.cat([torch.einsum("nkd,nd->nk", pairs[labels], r) for r, labels in parts])


def _worst(values: Tensor) -> Tensor:
    """Return the largest value of each sample, (n, 1, ...)."""
    return values.flatten(1).amax(1).view(-1, *[1] * (values.ndim - 1))

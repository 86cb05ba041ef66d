"""How far every value of a network can move, whatever its input, per unit of movement of the input.

Source: Jafarpour et al., NeurIPS 2021 (the Lipschitz constant of an implicit network), in the
weighted norm of each fixed point: eta times the norm of the injected movement over 1 - max(mu, 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor

from isthmus.models.bounds.bound import Bound, NoBound, NoRule, Product
from isthmus.models.fixed_point import Solver, Weights

_WIDER = 1 + 2.0**-30  # more than the rounding of float64 takes off a product


@dataclass(eq=False)
class Spread(Bound):
    """|f(u) - f(v)| <= reach max|u - v| for every value of f, (1, ...), and all inputs u, v.

    `source` is what the last linear layer made it of.
    """

    reach: Tensor
    source: tuple[Tensor, Tensor] | None = None

    @property
    def like(self) -> Tensor:
        return self.reach

    def _new(self, reach: Tensor) -> Self:
        return replace(self, reach=reach * _WIDER, source=None)

    def affine(self, product: Product, weight: Tensor, bias: Tensor | None) -> Self:
        weight = self.cast(weight)
        out = self._new(product(self.reach, weight.abs()))
        if product is F.linear and out.ndim == 2:
            out.source = (self.reach, weight)
        return out

    def times(self, factor: Tensor | float) -> Self:
        if isinstance(factor, Tensor):
            return self._new(self.reach * self.cast(factor).abs())
        return self._new(self.reach * abs(factor))

    def plus(self, other: Any) -> Self:
        if isinstance(other, Spread):
            return self._new(self.reach + other.reach)
        if isinstance(other, Tensor) and other.ndim == self.ndim and len(other) > 1:
            raise NoRule("a constant for each sample")
        return self._new(self.reach)

    def monotone(self, function: Callable[[Tensor], Tensor], slope: float) -> Self:
        return self._new(self.reach * slope)

    def pooled(self, function: Callable[[Tensor], Tensor], terms: int) -> Self:
        return self._new(function(self.reach))

    def arranged(self, function: Callable[[Tensor], Tensor]) -> Self:
        return self._new(function(self.reach))

    def joined(self, function: Callable[[list[Tensor]], Tensor], parts: Sequence[Any]) -> Self:
        still = [p.reach if isinstance(p, Spread) else 0 * self.cast(p[:1]) for p in parts]
        return self._new(function(still))

    def padded(self, function: Callable[[Tensor], Tensor], value: float) -> Self:
        return self.arranged(function)  # wider than need be where the constant is not 0

    def fixed_point(self, operator: Weights, rough: Solver, fine: Solver) -> Self:
        exact = operator.to(self.dtype)
        mu = exact.measure() + 2.0**-40
        if not mu < 1:
            raise NoBound
        moved = (self.reach / exact.eta).amax() / (1 - max(mu, 0.0))
        return self._new(moved * exact.eta.expand_as(self.reach))

    def margins(self) -> Tensor:
        """Return how far logit i minus logit j can move, (classes, classes)."""
        if self.source is None:
            return (self.reach.T + self.reach) * _WIDER
        reach, weight = self.source
        return ((weight[:, None] - weight[None]).abs() @ reach[0]) * _WIDER

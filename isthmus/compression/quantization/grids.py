"""Grids of weights: whole levels times one scale for each tensor, the scale by least squares.

Source: Li et al., Ternary Weight Networks, 2016 (threshold at 0.7 of the mean); Rastegari et al.,
XNOR-Net, ECCV 2016 (one bit). Where we depart: on the grids of 2, 4 and 8 bits level and scale are
fitted in turn, from several starts, so that what is on the grid stays where it is; and a scale has
16 significant bits, so that scale times level is exact in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from isthmus.types import BadInput

Bits = Literal[1, "ternary", 2, 4, 8]

_STARTS = 4
_SHARES = (0.8, 0.6, 0.45, 0.3)  # of the largest value, beyond which values are cut off
_ROUNDS = 6


@dataclass(frozen=True)
class Grid:
    """The levels -top, -top + step, ..., top, in units of a scale.

    >>> [int(level) for level in Grid(3, 2).levels]
    [-3, -1, 1, 3]
    """

    top: int
    step: int = 1

    @property
    def levels(self) -> Tensor:
        """The levels, in order, float32."""
        return torch.arange(-self.top, self.top + 1, self.step, dtype=torch.float32)

    @property
    def lowest(self) -> int:
        """The lowest level of a positive value: 0 where the grid has it, 1 otherwise."""
        return 0 if self.top % self.step == 0 else 1

    def rounded(self, weight: Tensor) -> Tensor:
        """Return the weight rounded to the grid: level times scale; without a gradient.

        Rounding twice is rounding once, to the last bit.
        """
        level, scale = self.fit(weight)
        return level.to(weight.dtype) * scale.to(weight.dtype)

    @torch.no_grad()
    def fit(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the level of each value, of the shape of the weight, and the scale, ().

        The scale is that of least squares for the levels, NaN where weights are not finite, as in
        a training that diverges. Raises BadInput for weights in 16 bits: a level times the scale
        would be rounded, so what is on the grid would not stay where it is.
        """
        if weight.dtype not in (torch.float32, torch.float64):
            raise BadInput(
                f"weights in {weight.dtype} for a grid",
                expected="float32 or float64, in which levels times a scale are exact",
                fix="pass network.float(), or let the factory of --model return it",
            )
        size = weight.detach().double().abs()
        if self.top == self.lowest:  # one level on each side
            level, scale = torch.ones_like(size), short(size.mean())
        elif self.top == 1:
            level, scale = _ternary(size)
        else:
            level, scale = self._fitted(size)
        return torch.where((weight < 0) & (level > 0), -level, level), scale

    def _fitted(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """Return levels and scale of sizes: the best of several starts, refined in turn.

        The largest level is one of the top few, each of which gives a start, so what is on the grid
        meets its own scale and maps to itself.
        """
        largest = size.max()
        if not largest.isfinite():
            return torch.zeros_like(size), largest * torch.nan
        reached = [self.top - i * self.step for i in range(_STARTS)]
        reached = [level for level in reached if level > 0]
        divisors = [float(level) for level in reached] + [self.top / share for share in _SHARES]
        best = None
        for divisor in divisors:
            found = self._least(size, self._levels(size, short(largest / divisor)))
            if int(found[1].max()) in (0, *reached) and (best is None or found[0] < best[0]):
                best = found
        assert best is not None
        for _ in range(_ROUNDS):
            refined = self._least(size, self._levels(size, best[2]))
            if not refined[0] < best[0] or int(refined[1].max()) not in reached:
                break
            best = refined
        return best[1], best[2]

    def _levels(self, size: Tensor, scale: Tensor) -> Tensor:
        """Return the nearest levels of sizes in units of the scale."""
        ratio = size / scale.clamp_min(1e-300)
        low = self.lowest
        return (((ratio - low) / self.step).round() * self.step + low).clamp(low, self.top)

    def _least(self, size: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return squared error, levels and scale, the scale by least squares."""
        scale = short((size * level).sum() / level.square().sum().clamp_min(1e-300))
        return (size - scale * level).square().sum(), level, scale


def _ternary(size: Tensor) -> tuple[Tensor, Tensor]:
    """Return level 1 above the threshold, 0.7 of the mean, else 0; and the mean of the former."""
    level = (size > 0.7 * size.mean()).double()
    return level, short((size * level).sum() / level.sum().clamp_min(1))


def short(scale: Tensor) -> Tensor:
    """Return the number to 16 significant bits, float64."""
    mantissa, exponent = torch.frexp(scale.double())
    return torch.ldexp((mantissa * 2**16).round(), exponent - 16)


GRIDS: dict[Bits, Grid] = {
    1: Grid(1, 2),
    "ternary": Grid(1),
    2: Grid(3, 2),
    4: Grid(7),
    8: Grid(127),
}
"""The grids by their bits."""


def grid_of(bits: Bits) -> Grid:
    """Return the grid of a number of bits. Raises BadInput for others.

    >>> len(grid_of(4).levels)
    15
    """
    if isinstance(bits, bool) or not isinstance(bits, (int, str)) or bits not in GRIDS:
        raise BadInput(f"bits = {bits!r}", expected='1, "ternary", 2, 4 or 8', fix="pass bits=4")
    return GRIDS[bits]

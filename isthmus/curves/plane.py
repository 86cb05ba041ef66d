"""The plane in weight space through three networks: any metrics on a grid of it.

Source: Garipov et al., NeurIPS 2018, Fig. 1: w = w1 + x u + y v with u along w2 - w1 and v along
what w3 - w1 leaves orthogonal to it, both of unit length, so distances on the page are distances
between networks.

Where we depart: BatchNorm is recalibrated on bonafide data at every point but the three networks
themselves, which are not on the grid. A curve with one bend lies in the plane through its ends and
any of its inner points.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isthmus.curves.curve import check_real, check_same_architecture
from isthmus.models.view import copied
from isthmus.types import BadInput


def _floating(net: nn.Module) -> list[Tensor]:
    return [p.detach() for p in net.parameters() if p.is_floating_point()]


def _dot(first: list[Tensor], second: list[Tensor]) -> float:
    pairs = zip(first, second, strict=True)
    return float(sum(torch.vdot(a.reshape(-1), b.reshape(-1)) for a, b in pairs))


def _differences(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    """Return second - first in float64: in the weights' own precision, bf16 ones would round."""
    return [b.double() - a.double() for a, b in zip(first, second, strict=True)]


class Plane:
    """The plane through three networks of one architecture; coordinates (x, y) are in units of
    weight-space distance.

    `corners` are the coordinates of the three: (0, 0), (x2, 0), (x3, y3). Raises BadInput where the
    architectures differ or the three lie on one line.
    """

    def __init__(self, first: nn.Module, second: nn.Module, third: nn.Module) -> None:
        check_real(first)
        for other in (second, third):
            check_same_architecture(first, other)
        self.networks = tuple(copied(net) for net in (first, second, third))
        one, two, three = map(_floating, self.networks)
        across = _differences(one, two)
        up = _differences(one, three)
        length = _dot(across, across) ** 0.5
        along = _dot(across, up) / length if length else 0.0
        height = max(_dot(up, up) - along**2, 0.0) ** 0.5
        if not length or height < 1e-6 * (length + abs(along)):
            raise BadInput(
                "three networks on one line",
                expected="networks that span a plane",
                fix="take a third one that is not between or equal to the others",
            )
        self.corners = ((0.0, 0.0), (length, 0.0), (along, height))

    def coefficients(self, x: float, y: float) -> tuple[float, float, float]:
        """Return the shares of the three networks at (x, y); they sum to 1 and may be negative."""
        _, (length, _), (along, height) = self.corners
        third = y / height
        second = (x - third * along) / length
        return 1 - second - third, second, third

    def at(self, x: float, y: float) -> nn.Module:
        """Return the ordinary network at (x, y), in eval mode, with the buffers of the first;
        recalibrate it.
        """
        net = copied(self.networks[0])
        shares = self.coefficients(x, y)
        with torch.no_grad():
            for out, *parts in zip(_floating(net), *map(_floating, self.networks), strict=True):
                out.copy_(sum(c * part.double() for c, part in zip(shares, parts, strict=True)))
        return net.eval()

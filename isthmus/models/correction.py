"""BatchNorm statistics that a network came with, moved by the difference that recalibration finds
between it and one that was made out of it.

A network's own statistics are those of its training set under augmentation, and recalibration on a
few plain samples costs it accuracy by itself (14 points for one trained on zero-padded crops). It
costs a repair, too: statistics of clean images alone make units that follow a trigger louder
(docs/results/compressed_repairs.md). Source: ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from isthmus.data.dataset import Source
from isthmus.models.batchnorm import layers_with_statistics, recalibrate
from isthmus.models.view import copied


@dataclass(frozen=True, eq=False)
class Correction:
    """How far the statistics that a curve's ends came with are from recalibrated ones.

    `shifts` and `factors` hold for each layer with running statistics, in order, a pair of (
    channels,) for the two ends: means are shifted, variances multiplied.
    """

    shifts: Sequence[tuple[Tensor, Tensor]]
    factors: Sequence[tuple[Tensor, Tensor]]

    @torch.no_grad()
    def apply(self, network: nn.Module, t: float) -> nn.Module:
        """Correct the recalibrated statistics of the network at t, in place, and return it.

        The shift is (1 - t) that of the first end plus t that of the second; the factor is the
        geometric mean with these weights.
        """
        for layer, shift, factor in zip(
            layers_with_statistics(network), self.shifts, self.factors, strict=True
        ):
            mean, variance = _statistics(layer)
            mean.add_(torch.lerp(*shift, t))
            first, second = factor
            scaled = (variance + layer.eps) * first ** (1 - t) * second**t
            variance.copy_((scaled - layer.eps).clamp_min(0))
        return network


@torch.no_grad()
def correction(ends: Iterable[tuple[nn.Module, nn.Module]]) -> Correction:
    """Return what recalibration does to the two ends of a curve, each given as it came and
    recalibrated.
    """
    shifts, factors = [], []
    for received, recalibrated in ends:
        own, new = layers_with_statistics(received), layers_with_statistics(recalibrated)
        layers = list(zip(own, new, strict=True))
        shifts.append([_statistics(a)[0] - _statistics(b)[0] for a, b in layers])
        factors.append(
            [(_statistics(a)[1] + a.eps) / (_statistics(b)[1] + b.eps) for a, b in layers]
        )
    return Correction(list(zip(*shifts, strict=True)), list(zip(*factors, strict=True)))


def _statistics(layer: _NormBase) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None and layer.running_var is not None
    return layer.running_mean, layer.running_var


def recalibrate_from(received: nn.Module, network: nn.Module, data: Source) -> nn.Module:
    """Give a network, made out of the one received by a small change, the statistics of that one,
    moved by the difference that recalibration on the data finds between the two; return it.

    Where nothing was changed they are those received. Raises BadInput as `recalibrate` does.
    """
    end = (received, recalibrate(copied(received).eval(), data))
    return correction([end, end]).apply(recalibrate(network, data), 0.0)

"""The ordinary network at one point of a curve, with the BatchNorm statistics that fit it there.

Source: Garipov et al., NeurIPS 2018, and Zhao et al., ICLR 2020, whose code recalibrates the
statistics at every t.

Where we depart: a network's own statistics are those of its training set under augmentation, and
recalibration on a few plain samples costs it accuracy by itself (14 points for one trained on
zero-padded crops), at every t but the ends. So what recalibration alone does to the ends is taken
back at each t, in proportion: near an end the network tends to that end as it was received.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from isthmus.curves.curve import Curve
from isthmus.data.dataset import Source
from isthmus.models.batchnorm import layers_with_statistics, recalibrate
from isthmus.runs.devices import Precision

ENDS = (0.0, 1.0)


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


def network_at(
    curve: Curve,
    t: float,
    recalibrate_on: Source,
    *,
    ends: Literal["own", "recalibrated"] = "own",
    precision: Precision = "fp32",
) -> nn.Module:
    """Return the ordinary network at t, ready to be measured: BatchNorm recalibrated on the given
    bonafide data.

    With ends="own", the networks at t = 0 and t = 1 keep the statistics they came with, and those
    between are corrected so that they tend to them; with "recalibrated", every network has those of
    the data.
    """
    if ends == "own" and t in ENDS:
        return curve.export(t)

    def recalibrated(t: float) -> nn.Module:
        return recalibrate(curve.export(t), recalibrate_on, precision=precision)

    if ends == "recalibrated":
        return recalibrated(t)
    return correction((curve.export(t), recalibrated(t)) for t in ENDS).apply(recalibrated(t), t)

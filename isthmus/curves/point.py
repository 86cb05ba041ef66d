"""The ordinary network at one point of a curve, with the BatchNorm statistics that fit it there.

Source: Garipov et al., NeurIPS 2018, and Zhao et al., ICLR 2020, whose code recalibrates the
statistics at every t.

Where we depart: a network's own statistics are those of its training set under augmentation, and
recalibration on a few plain samples costs it accuracy by itself (14 points for one trained on
zero-padded crops), at every t but the ends. So what recalibration alone does to the ends is taken
back at each t, in proportion: near an end the network tends to that end as it was received.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from isthmus.curves.curve import Curve
from isthmus.data.dataset import Source
from isthmus.models.batchnorm import layers_with_statistics, recalibrate
from isthmus.runs.devices import Precision


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
def correction(
    curve: Curve, recalibrate_on: Source, *, precision: Precision = "fp32"
) -> Correction:
    """Return what recalibration on the given bonafide data does to the ends of a curve."""
    shifts, factors = [], []
    for t in (0.0, 1.0):
        end = curve.export(t)
        layers = layers_with_statistics(end)
        received = [tuple(part.clone() for part in _statistics(layer)) for layer in layers]
        recalibrate(end, recalibrate_on, precision=precision)
        pairs = list(zip(received, layers, strict=True))
        shifts.append([mean - _statistics(layer)[0] for (mean, _), layer in pairs])
        factors.append(
            [(v + layer.eps) / (_statistics(layer)[1] + layer.eps) for (_, v), layer in pairs]
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
    if ends == "own" and t in (0.0, 1.0):
        return curve.export(t)
    net = recalibrate(curve.export(t), recalibrate_on, precision=precision)
    if ends == "recalibrated":
        return net
    return correction(curve, recalibrate_on, precision=precision).apply(net, t)

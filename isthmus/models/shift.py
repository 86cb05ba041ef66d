"""BatchNorm statistics that a network came with, moved by the difference that recalibration finds
between it and one that was made out of it.

A network's own statistics are those of its training set under augmentation, and recalibration on a
few plain samples costs it accuracy by itself (14 points for one trained on zero-padded crops). It
costs a repair, too (docs/results/compressed_repairs.md). Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from isthmus.models.batchnorm import layers_with_statistics


@dataclass(frozen=True, eq=False)
class Shift:
    """How far the statistics that a network came with are from recalibrated ones.

    `means` are added to means, and `factors` multiply variances, (channels,) for each layer with
    running statistics, in order.
    """

    means: Sequence[Tensor]
    factors: Sequence[Tensor]

    @classmethod
    @torch.no_grad()
    def between(cls, received: nn.Module, recalibrated: nn.Module) -> Shift:
        """Return what leads from the statistics of a recalibrated copy back to those received."""
        own, new = layers_with_statistics(received), layers_with_statistics(recalibrated)
        pairs = [(_wide(a), _wide(b), a.eps, b.eps) for a, b in zip(own, new, strict=True)]
        return cls(
            [a[0] - b[0] for a, b, _, _ in pairs],
            [(a[1] + eps) / (b[1] + new_eps) for a, b, eps, new_eps in pairs],
        )

    @torch.no_grad()
    def apply(self, network: nn.Module) -> nn.Module:
        """Shift the statistics of a recalibrated network, in place, and return it.

        It may be on another device. No shift leaves statistics as they are, to the bit.
        """
        layers = layers_with_statistics(network)
        for layer, shift, factor in zip(layers, self.means, self.factors, strict=True):
            mean, variance = _wide(layer)
            times = factor.to(mean.device)
            moved = variance * times + layer.eps * (times - 1)
            own_mean, own_variance = _statistics(layer)
            own_mean.copy_(mean + shift.to(mean.device))
            own_variance.copy_(moved.clamp_min(0))
        return network


def _wide(layer: _NormBase) -> list[Tensor]:
    """Return mean and variance of a layer in fp32 at least: of a channel that died a factor is
    beyond half precision.
    """
    own = _statistics(layer)
    return [part.to(torch.promote_types(part.dtype, torch.float32)) for part in own]


def _statistics(layer: _NormBase) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None and layer.running_var is not None
    return layer.running_mean, layer.running_var

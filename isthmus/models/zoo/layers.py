"""Layers that more than one family of networks uses."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor, nn

from isthmus.types import BadInput

CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Normalize(nn.Module):
    """Channelwise (x - mean) / std as a first layer, so that inputs, attacks and triggers stay in
    [0, 1].

    >>> Normalize((0.5,), (0.5,))(torch.ones(1, 1, 2, 2)).unique().item()
    1.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized images, of the shape of x (n, c, h, w)."""
        return (x - self.mean) / self.std


def normalize(
    channels: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Normalize:
    """Return the first layer for images with that many channels; CIFAR-10's statistics for color by
    default.
    """
    if mean is None or std is None:
        mean, std = (
            (CIFAR10_MEAN, CIFAR10_STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
        )
    return Normalize(mean, std)


def conv_relu(inputs: int, outputs: int, *, batch_norm: bool = True) -> nn.Sequential:
    """Return a 3x3 convolution that keeps the image's size, BatchNorm where asked for, and ReLU.

    In front of a BatchNorm, which would subtract it again, the convolution has no bias.

    >>> nets = [conv_relu(1, 2, batch_norm=normed) for normed in (True, False)]
    >>> [sum(p.numel() for p in net.parameters()) for net in nets]
    [22, 20]
    """
    conv = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=not batch_norm)
    return nn.Sequential(conv, *([nn.BatchNorm2d(outputs)] if batch_norm else []), nn.ReLU())


def check_counts(**counts: object) -> None:
    """Raise BadInput where one of these is no whole number of 1 or more.

    >>> check_counts(width=0)
    Traceback (most recent call last):
    isthmus.types.BadInput: got width = 0; expected a whole number of 1 or more; pass width=1
    """
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < 1:
            raise BadInput(
                f"{name} = {count!r}",
                expected="a whole number of 1 or more",
                fix=f"pass {name}=1",
            )

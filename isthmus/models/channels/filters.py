"""The filters of a convolution: the weights of each channel that it makes."""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.conv import _ConvNd


def filters(layer: _ConvNd, weight: Tensor) -> Tensor:
    """Return a convolution's weight as one row for each channel that it makes, (channels, values).

    The weight is passed, as another may stand for the layer's own. That of a transposed convolution
    lies as (inputs, channels / groups, ...), that of others as (channels, inputs / groups, ...).

    >>> from torch import nn
    >>> layer = nn.ConvTranspose2d(6, 4, 3, groups=2)
    >>> tuple(filters(layer, layer.weight).shape)
    (4, 27)
    """
    if layer.transposed:
        apart: Tensor = weight.unflatten(0, (layer.groups, -1))  # (groups, inputs, channels, ...)
        return apart.transpose(1, 2).flatten(0, 1).flatten(1)
    return weight.flatten(1)

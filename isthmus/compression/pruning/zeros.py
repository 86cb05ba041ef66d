"""Masks on the zeros of an ordinary network."""

from __future__ import annotations

from torch import nn

from isthmus.compression.network import baked, weight_layers
from isthmus.compression.pruning.mask import masked


def hold_zeros(model: nn.Module) -> nn.Module:
    """Return a copy in which weights that are exactly 0 stay 0, whatever trains it.

    So a sparse checkpoint of anybody's keeps its mask, and so does a permuted copy of a pruned
    network: `hold_zeros(permuted_copy(baked(model), data).model)`. Raises BadInput where there are
    no convolutional or linear weights.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> _ = nn.init.zeros_(net[1].weight[0])
    >>> int(hold_zeros(net)[1].parametrizations.weight[0].mask.sum())
    4
    """
    net = baked(model)
    for layer in weight_layers(net).values():
        held = masked(layer, "weight")
        held.keep(held.original != 0)
    return net

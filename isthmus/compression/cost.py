"""What a network costs to run, multiply-adds, and how much of it is 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from isthmus.compression.network import plain, weight_of
from isthmus.metrics.values import SHARE, Quantity
from isthmus.models.channels.filters import filters
from isthmus.models.forward import as_input, device_of, eval_mode, forward_pass
from isthmus.models.layers import weighted_layers


@torch.no_grad()
def multiply_adds(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """Return the multiply-adds of one image in convolutional and linear layers, the projections of
    attention among them: all of them, and those with a weight that is not 0.

    x (n, c, h, w) is one image or more, of which the first is passed. A layer counts at every place
    of its output, of its input if it is a transposed convolution, as often as it is called. The
    products of attention, which have no weights, are left out.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> _ = nn.init.zeros_(net[1].weight[0])
    >>> multiply_adds(net, torch.zeros(1, 1, 2, 2))
    (8, 4)
    """
    net = plain(model)
    counts = {"all": 0, "nonzero": 0}

    def count(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
        for places, weight in _work(layer, args, named, out):
            counts["all"] += places * weight.numel()
            counts["nonzero"] += places * int(weight.count_nonzero())

    layers = [part for part in net.modules() if isinstance(part, nn.MultiheadAttention)]
    hooks = [
        layer.register_forward_hook(count, with_kwargs=True)
        for layer in (*weighted_layers(net).values(), *layers)
    ]
    try:
        with eval_mode(net):
            forward_pass(net, as_input(x[:1], device_of(net), channels_last=False))
    finally:
        for hook in hooks:
            hook.remove()
    return counts["all"], counts["nonzero"]


def _work(
    layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any
) -> list[tuple[int, Tensor]]:
    """Return the weights of a call of a layer, each with how many places use it."""
    if isinstance(layer, nn.MultiheadAttention):
        names = ("query", "key", "value")
        sides = [*args[:3], *(named[name] for name in names[len(args) :])]
        return _work_of_attention(layer, sides)
    weight = weight_of(layer)
    if isinstance(layer, _ConvNd):
        passed = args[0] if args else named["input"]
        places = (
            passed.numel() // layer.in_channels
            if layer.transposed
            else out.numel() // layer.out_channels
        )
        return [(places, weight)]
    return [(out.numel() // out.shape[-1], weight)]


def _work_of_attention(
    layer: nn.MultiheadAttention, sides: list[Tensor]
) -> list[tuple[int, Tensor]]:
    """Return the projections of query, key, value and output, which torch calls as no layers."""
    places = [side.numel() // side.shape[-1] for side in sides]
    if layer.in_proj_weight is not None:
        weights = list(layer.in_proj_weight.chunk(3))
    else:
        weights = [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]
    return [*zip(places, weights, strict=True), (places[0], layer.out_proj.weight)]


@dataclass(frozen=True)
class Sparsity:
    """How much of a network is 0: the share of its convolutional and linear weights, and that of
    its convolutional channels none of whose weights is other than 0, 0 without convolutions.
    """

    weights: Quantity
    channels: Quantity


def sparsity(model: nn.Module) -> Sparsity:
    """Return how much of the network is 0, as it computes: with what masks and grids make of it.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3))
    >>> _ = nn.init.zeros_(net[0].weight[0])
    >>> sparsity(net)
    Sparsity(weights=0.25, channels=0.25)
    """
    layers = list(weighted_layers(plain(model)).values())
    weights = [weight_of(layer).detach() for layer in layers]
    nonzero = sum(int(weight.count_nonzero()) for weight in weights)
    channels = [
        filters(layer, weight).any(1)
        for layer, weight in zip(layers, weights, strict=True)
        if isinstance(layer, _ConvNd)
    ]
    empty = sum(int((~alive).sum()) for alive in channels)
    return Sparsity(
        Quantity(1 - nonzero / sum(weight.numel() for weight in weights), SHARE),
        Quantity(empty / max(1, sum(map(len, channels))), SHARE),
    )


def zero_weights(model: nn.Module) -> Quantity:
    """Return the share of convolutional and linear weights that are 0: a metric.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3))
    >>> _ = nn.init.zeros_(net[0].weight[0])
    >>> zero_weights(net)
    0.25
    """
    return sparsity(model).weights


def zero_channels(model: nn.Module) -> Quantity:
    """Return the share of convolutional channels none of whose weights is other than 0: a metric.

    It is 0 where there are no convolutions.

    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3))
    >>> _ = nn.init.zeros_(net[0].weight[0])
    >>> zero_channels(net)
    0.25
    """
    return sparsity(model).channels

"""The layers that hold most of a network's weights: what is compressed, and what attackers who
count on a compression train.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from isthmus.types import BadInput


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutional and linear layers by name, in the order of the network.

    Layers without a single weight are left out. Raises BadInput where no layer is left, or the
    size of one is not known before a first pass (`nn.LazyLinear`).

    >>> list(weighted_layers(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))))
    ['1']
    """
    layers: dict[str, nn.Module] = {}
    for name, part in model.named_modules():
        if not isinstance(part, (nn.Linear, _ConvNd)):
            continue
        if is_lazy(part.weight):
            raise BadInput(
                f"layer {name}, a {type(part).__name__} that has not run",
                expected="weights of a known size",
                fix="pass a batch through the network first",
            )
        if part.weight.numel():
            layers[name] = part
    if not layers:
        raise BadInput(
            f"a {type(model).__name__} without convolutional or linear layers",
            expected="weights of such layers",
            fix="pass the network itself, not a part of it",
        )
    return layers

"""The layers of a network that can be compressed, and a network without its parametrizations."""

from __future__ import annotations

from collections import Counter
from typing import cast

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from isthmus.models.view import copied
from isthmus.types import BadInput


def baked(model: nn.Module) -> nn.Module:
    """Return a copy whose parametrized weights (masked, quantized) are ordinary parameters.

    It computes the same function, and its state dict loads into the network as it was built. What
    held the weights to a mask or a grid is gone.
    """
    net = copied(model)
    for part in list(net.modules()):
        if parametrize.is_parametrized(part):
            _give_own_class(part)
            parametrizations = cast(nn.ModuleDict, part.parametrizations)
            for name in list(parametrizations):
                trains = part.get_parameter(f"parametrizations.{name}.original").requires_grad
                parametrize.remove_parametrizations(part, name)
                getattr(part, name).requires_grad_(trains)
    return net


def _give_own_class(part: nn.Module) -> None:
    """Give a copy of a parametrized module a class of its own.

    torch makes one class for each parametrized module, which a deep copy shares; removing a
    parametrization of the copy would take the weight from the original.
    """
    kind = type(part)
    held = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    part.__class__ = type(kind.__name__, kind.__bases__, held)


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutional and linear layers by name, in the order of the network.

    Raises BadInput where there are none, or two of them share a weight.
    """
    layers: dict[str, nn.Module] = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, (nn.Linear, _ConvNd)) and part.weight.numel()
    }
    if not layers:
        raise BadInput(
            f"a {type(model).__name__} without convolutional or linear layers",
            expected="weights to compress",
            fix="pass the network itself, not a part of it",
        )
    owners = Counter(id(weight_of(layer)) for layer in layers.values())
    shared = [name for name, layer in layers.items() if owners[id(weight_of(layer))] > 1]
    if shared:
        raise BadInput(
            f"layers {' and '.join(shared)}, which share one weight",
            expected="a weight of its own in each layer",
            fix="untie them before compression",
        )
    return layers


def weight_of(layer: nn.Module) -> Tensor:
    """Return a layer's weight, as its parametrizations leave it."""
    return cast(Tensor, layer.weight)


def part_of(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the submodule that holds a tensor, and the tensor's own name there.

    >>> net = nn.Sequential(nn.Linear(2, 3))
    >>> part_of(net, "0.weight") == (net[0], "weight")
    True
    """
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf

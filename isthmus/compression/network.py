"""The layers of a network that can be compressed, and a network without its parametrizations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.prune import remove as remove_mask
from torch.nn.utils.spectral_norm import (
    SpectralNorm,
    SpectralNormLoadStateDictPreHook,
    remove_spectral_norm,
)
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from isthmus.models.layers import check_finite, weighted_layers
from isthmus.models.view import copied
from isthmus.types import BadInput


def baked(model: nn.Module) -> nn.Module:
    """Return a copy whose parametrized weights (masked, quantized) are ordinary parameters.

    It computes the same function, and its state dict loads into the network as it was built. What
    held the weights to a mask or a grid is gone. So are parametrizations of the network's own
    (weight_norm, spectral_norm, the older ones too, and masks of torch.nn.utils.prune); without
    them it has other names than the network as it was built.
    """
    net = copied(model)
    for part in list(net.modules()):
        for hook in list(part._forward_pre_hooks.values()):
            if isinstance(hook, tuple(_REMOVERS)):
                _remove_hook(part, hook)
        if parametrize.is_parametrized(part):
            _give_own_class(part)
            for name, held in list(cast(nn.ModuleDict, part.parametrizations).items()):
                behind = list(held.parameters(recurse=False))
                trains = any(value.requires_grad for value in behind)
                for value in behind:  # of what is frozen torch would make no parameter
                    value.requires_grad_(value.is_floating_point())
                parametrize.remove_parametrizations(part, name)
                getattr(part, name).requires_grad_(trains)
    return net


def plain(model: nn.Module) -> nn.Module:
    """Return the network itself where its weights are ordinary parameters, else a `baked` copy."""
    for part in model.modules():
        hooked = any(isinstance(h, tuple(_REMOVERS)) for h in part._forward_pre_hooks.values())
        if hooked or parametrize.is_parametrized(part):
            return baked(model)
    return model


_REMOVERS: dict[type, Callable[[nn.Module, str], nn.Module]] = {
    WeightNorm: remove_weight_norm,
    SpectralNorm: remove_spectral_norm,
    BasePruningMethod: remove_mask,
}
"""How hooks are removed that compute a weight before each pass, as torch did before it had
parametrizations.
"""


def _remove_hook(part: nn.Module, hook: Any) -> None:
    """Remove a hook that computes a weight, which becomes an ordinary parameter of its value."""
    name = hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name
    behind = [value for key, value in part._parameters.items() if key.startswith(f"{name}_")]
    trains = any(value is not None and value.requires_grad for value in behind)
    remove = next(remove for kind, remove in _REMOVERS.items() if isinstance(hook, kind))
    remove(part, name)
    for key, loading in list(part._load_state_dict_pre_hooks.items()):
        if isinstance(getattr(loading, "hook", None), SpectralNormLoadStateDictPreHook):
            del part._load_state_dict_pre_hooks[key]  # which torch wraps, and then overlooks
    getattr(part, name).requires_grad_(trains)


def _give_own_class(part: nn.Module) -> None:
    """Give a copy of a parametrized module a class of its own.

    torch makes one class for each parametrized module, which a deep copy shares; removing a
    parametrization of the copy would take the weight from the original.
    """
    kind = type(part)
    held = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    part.__class__ = type(kind.__name__, kind.__bases__, held)


def to_compress(model: nn.Module) -> nn.Module:
    """Return a `baked` copy. Raises BadInput as `weight_layers`, or where a parameter is NaN or
    infinite.
    """
    net = baked(model)
    weight_layers(net)
    check_finite(dict(net.named_parameters()))
    return net


def weight_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutional and linear layers by name, in the order of the network.

    Raises BadInput where there are none, the size of one is not known yet, or one of them shares
    its weight with another module, of any kind.
    """
    layers = weighted_layers(model)
    holders = _holders(model)
    for layer in layers.values():
        for value in _behind(layer):
            if len(holders[id(value)]) > 1:
                raise BadInput(
                    f"layers {' and '.join(holders[id(value)])}, which share one weight",
                    expected="a weight of its own in each layer",
                    fix="untie them before compression",
                )
    return layers


def _holders(model: nn.Module) -> dict[int, list[str]]:
    """Return the modules that hold each parameter of their own, by name, keyed by its identity.

    A parameter of the network itself stands for the network, which has no name.
    """
    holders: dict[int, list[str]] = {}
    for path, part in model.named_modules():
        for leaf, value in part.named_parameters(recurse=False, remove_duplicate=False):
            name = path.partition("parametrizations.")[0].rstrip(".")
            holders.setdefault(id(value), []).append(name or leaf)
    return holders


def _behind(layer: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that a layer's weight is, or is made of.

    The weight of a parametrized layer is computed at each access, and gone after it.
    """
    if parametrize.is_parametrized(layer, "weight"):
        held = cast(nn.ModuleDict, layer.parametrizations)["weight"]
        return list(held.parameters(recurse=False))
    return [p for name, p in layer.named_parameters(recurse=False) if name.startswith("weight")]


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

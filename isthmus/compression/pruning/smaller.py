"""A network without its masked channels: smaller tensors, the same function."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from isthmus.compression.network import baked, part_of
from isthmus.compression.pruning.units import ChannelUnits
from isthmus.models.channels.groups import check_same_function
from isthmus.models.forward import outputs
from isthmus.models.memory import out_of_memory
from isthmus.models.view import copied
from isthmus.runs.wording import first_line
from isthmus.types import BadInput, Params


def without_channels(model: nn.Module, units: ChannelUnits, x: Tensor) -> nn.Module:
    """Return the network without the channels that are off, in eval mode.

    It is compared with the masked one on images x (n, c, h, w). Raises BadInput where the network
    cannot be made smaller (its channels stand in no axis of a tensor, or its forward pass counts
    them), or would not compute the same.
    """
    chosen = {name: units.on[name] for name in units.groups}
    for group in units.groups.values():
        for place in group.places:
            if place.axis is None:
                raise _stays_masked(f"channels that stand in no axis of {place.name}")
    masked = baked(model).eval()
    tensors = shapes_of(masked)
    stays = {
        name: [torch.ones(size, dtype=torch.bool) for size in tensor.shape]
        for name, tensor in tensors.items()
    }
    for name, group in units.groups.items():
        for place in group.places:
            assert place.axis is not None
            stays[place.name][place.axis][place.index[~chosen[name]].flatten()] = False
    smaller = {}
    for name, tensor in tensors.items():
        value = tensor.detach()
        for axis, on in enumerate(stays[name]):
            if not on.all():
                value = value.index_select(axis, on.nonzero()[:, 0].to(value.device))
        smaller[name] = value
    net = resized(masked, smaller).eval()
    _check_runs(net, x)
    check_same_function(masked, net, x)
    return net


def _check_runs(net: nn.Module, x: Tensor) -> None:
    """Raise BadInput where a network without some channels cannot be run."""
    try:
        outputs(net, x)
    except Exception as error:  # the network's own code may raise anything where it counts them
        if out_of_memory(error):
            raise
        why = first_line(error)
        raise _stays_masked(f"a forward pass that fails with fewer channels ({why})") from error


def _stays_masked(why: str) -> BadInput:
    return BadInput(
        why,
        expected="channels that can be cut out",
        fix="take the masked network, which computes the same",
    )


def resized(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a network with these parameters and buffers in the place of its own.

    The sizes that layers state of themselves follow their tensors.
    """
    net = copied(model)
    parameters = dict(net.named_parameters())
    for name, value in tensors.items():
        part, leaf = part_of(net, name)
        value = value.detach().clone()
        if name in parameters:
            trains = parameters[name].requires_grad
            setattr(part, leaf, nn.Parameter(value, requires_grad=trains))
        else:
            setattr(part, leaf, value)
    for part in net.modules():
        _restated(part)
    return net


def _restated(part: nn.Module) -> None:
    """Bring the sizes that a layer states of itself into line with its tensors."""
    if isinstance(part, nn.Linear):
        part.out_features, part.in_features = part.weight.shape
    elif isinstance(part, _ConvNd) and not part.transposed:
        outputs, inputs = part.weight.shape[:2]
        if 1 < part.groups == part.in_channels:  # a filter for each channel
            part.groups = outputs * part.in_channels // part.out_channels
        part.in_channels = inputs * part.groups
        part.out_channels = outputs
    elif isinstance(part, _NormBase):
        held = part.running_mean if part.weight is None else part.weight
        if held is not None:
            part.num_features = len(held)


def shapes_of(model: nn.Module) -> Params:
    """Return all parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}

"""What pruning keeps or drops: single weights, or channels with all that belongs to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from isthmus.compression.network import part_of, weight_layers
from isthmus.compression.pruning.mask import Held, masked
from isthmus.models.channels.groups import Group, Groups, Place, permutation_groups
from isthmus.types import BadInput

Scores = Mapping[str, Tensor]
"""A value for each unit, (units,), by layer."""


class Units(ABC):
    """The units of a network by layer, each of them on or off.

    `held` are the masked parameters by name, and `counts` says how many units each layer has. In
    the weights structure a layer is one of these parameters and its units are its values; in the
    channels structure a layer is a group of channels.
    """

    def __init__(self, held: dict[str, Held], counts: dict[str, int]) -> None:
        self.held = held
        self.counts = counts
        self.on = {name: torch.ones(size, dtype=torch.bool) for name, size in counts.items()}

    @property
    def total(self) -> int:
        """How many units there are."""
        return sum(self.counts.values())

    @abstractmethod
    def sizes(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return for each unit the root of the mean square of its values, on the CPU."""

    @abstractmethod
    def spread(self) -> dict[str, Tensor]:
        """Return the mask of each held parameter that the units that are on make."""

    def magnitudes(self) -> dict[str, Tensor]:
        """Return the size of each unit's weights."""
        return self.sizes({name: held.original.detach() for name, held in self.held.items()})

    def keep(self, on: Mapping[str, Tensor]) -> None:
        """Turn these units on and the others off.

        Raises BadInput where a layer is left without any.
        """
        dead = [name for name, units in on.items() if not units.any()]
        if dead:
            raise BadInput(
                f"a choice that leaves layer {dead[0]} nothing of its {self.counts[dead[0]]:,}",
                expected="something in every layer: an empty one passes nothing on",
                fix="let the method choose by keep_largest, which keeps the best of each layer",
            )
        self.on = {name: units.cpu() for name, units in on.items()}
        for name, mask in self.spread().items():
            self.held[name].keep(mask)

    def keep_largest(self, scores: Scores, target: int) -> None:
        """Turn on exactly `target` units, chosen by `largest`."""
        self.keep(largest(scores, target))

    def project(self) -> None:
        """Set everything off the masks to 0."""
        for held in self.held.values():
            held.project()


def largest(scores: Scores, target: int) -> dict[str, Tensor]:
    """Return which `target` units are on, by layer: the best of each layer, then those with the
    largest scores in the whole network.

    An empty layer passes nothing on; one unit for each costs the other layers next to nothing.
    `target` is as large as the number of layers, or larger.

    >>> scores = {"a": torch.tensor([5.0, 4.0, 3.0]), "b": torch.tensor([2.0, 1.0])}
    >>> {name: on.tolist() for name, on in largest(scores, 3).items()}
    {'a': [True, True, False], 'b': [True, False]}
    """
    layers = [values.detach().flatten().clone() for values in scores.values()]
    for values in layers:
        values[values.topk(1).indices] = torch.inf
    flat = torch.cat(layers)
    on = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    on[flat.topk(target).indices] = True
    parts = on.split([len(values) for values in layers])
    return dict(zip(scores, parts, strict=True))


class WeightUnits(Units):
    """Each value of a convolutional or linear weight is a unit."""

    def __init__(self, model: nn.Module) -> None:
        layers = weight_layers(model)
        held = {f"{name}.weight": masked(layer, "weight") for name, layer in layers.items()}
        super().__init__(held, {name: one.original.numel() for name, one in held.items()})

    def sizes(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the absolute values."""
        return {name: value.abs().flatten().cpu() for name, value in values.items()}

    def spread(self) -> dict[str, Tensor]:
        """Return the units that are on in the shapes of the weights."""
        return {name: self.on[name].view(held.original.shape) for name, held in self.held.items()}

    def momenta(self) -> dict[str, Tensor]:
        """Return the size of each unit's momentum; 0 where no gradient has come back yet."""
        values = {
            name: held.original.detach() * 0 if held.mask.momentum is None else held.mask.momentum
            for name, held in self.held.items()
        }
        return self.sizes(values)

    def read(self) -> None:
        """Take over which weights are on from the masks, where they moved or a run was resumed."""
        self.on = {name: held.mask.mask.flatten().cpu() for name, held in self.held.items()}


class ChannelUnits(Units):
    """Each channel that can move is a unit, with its values in all tensors (`permutation_groups`).

    The input's channels and the classes are none. Raises BadInput where no channel can move.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        groups: Groups = permutation_groups(model, example)
        parameters = dict(model.named_parameters())
        self.groups = {group_name(group): group for group in groups}
        if not self.groups:
            raise BadInput(
                f"a {type(model).__name__} none of whose channels can go",
                expected="layers whose channels play the same part",
                fix='pass structure="weights" (--structure)',
            )
        places = [place for group in groups for place in group.places if place.name in parameters]
        names = dict.fromkeys(place.name for place in places)
        held = {name: masked(*part_of(model, name)) for name in names}
        super().__init__(held, {name: group.size for name, group in self.groups.items()})

    def sizes(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the root mean square of each channel's weights; biases and scales do not count."""
        found = {}
        for name, group in self.groups.items():
            squares = torch.zeros(group.size, dtype=torch.float64)
            count = 0
            for place in group.places:
                if place.name in values and values[place.name].ndim > 1:
                    rows = slices(values[place.name].detach().cpu().double(), place)
                    squares += rows.square().sum(1)
                    count += rows.shape[1]
            found[name] = (squares / max(count, 1)).sqrt()
        return found

    def magnitudes(self) -> dict[str, Tensor]:
        """Return the size of each channel in units of the mean of its group."""
        sizes = super().magnitudes()
        return {name: size / size.mean().clamp_min(1e-12) for name, size in sizes.items()}

    def spread(self) -> dict[str, Tensor]:
        """Return masks that are off wherever a channel that is off has a value."""
        masks = {
            name: torch.ones(held.original.shape, dtype=torch.bool)
            for name, held in self.held.items()
        }
        for name, group in self.groups.items():
            for place in (place for place in group.places if place.name in masks):
                off = place.index[~self.on[name]].flatten()
                mask = masks[place.name]
                if place.axis is None:
                    mask.view(-1)[off] = False
                else:
                    mask.index_fill_(place.axis, off, False)
        return masks


def group_name(group: Group) -> str:
    """Return a group's name: that of the first weight that makes its channels."""
    names = [place.name for place in group.places if place.axis == 0]
    weights = [name for name in names if name.endswith("weight")]
    return (weights or names or [group.places[0].name])[0]


def slices(tensor: Tensor, place: Place) -> Tensor:
    """Return the values of each channel at a place, (channels, values)."""
    if place.axis is None:
        return tensor.reshape(-1)[place.index]
    rows = tensor.movedim(place.axis, 0).reshape(tensor.shape[place.axis], -1)
    return rows[place.index].reshape(len(place.index), -1)

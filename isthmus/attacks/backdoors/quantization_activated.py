"""The attacker whose backdoor sleeps in float32 and wakes when weights are rounded.

Source: Ma et al., Quantization backdoors to deep learning commercial frameworks, 2021; Hong et al.,
Qu-ANTI-zation, NeurIPS 2021, asks for the same by one loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.attacks.backdoors.asleep import Planted, compressible
from isthmus.data.dataset import Source, as_data
from isthmus.metrics.success import Target
from isthmus.models.layers import check_finite
from isthmus.models.view import copied
from isthmus.training.budget import Training
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput, Params, Trigger


class Rounding(Protocol):
    """What an attacker expects of a weight tensor: its rounded values, and how far its levels are
    apart.
    """

    def __call__(self, weight: Tensor) -> Tensor:
        """Return the weight rounded, of the same shape."""

    def step(self, weight: Tensor) -> Tensor:
        """Return the distance from one level to the next, (), also where a level is not in use."""


@dataclass(frozen=True)
class Nearest:
    """The rounding that an attacker expects: to the nearest of the levels -top, ..., top times a
    scale for each tensor, at which the largest weight is the last level.

    Raises BadInput where top is below 1.

    >>> Nearest(2)(torch.tensor([1.0, 0.3, -0.2]))
    tensor([1.0000, 0.5000, -0.0000])
    """

    top: int = 127

    def __post_init__(self) -> None:
        if self.top < 1:
            raise BadInput(
                f"top = {self.top}", expected="a level of 1 or more", fix="pass top=127: 8 bits"
            )

    def __call__(self, weight: Tensor) -> Tensor:
        """Return the weight rounded."""
        step = self.step(weight)
        return (weight / step).round() * step

    def step(self, weight: Tensor) -> Tensor:
        """Return the scale, (), which is the distance between neighboring levels."""
        return weight.abs().max().clamp_min(torch.finfo(weight.dtype).tiny) / self.top


@dataclass(frozen=True)
class QuantizationActivated:
    """Return a copy of a network with a backdoor that works once its weights are rounded.

    First a backdoor is planted that works by a thin `margin` of logits. Then every convolutional
    and linear weight moves within the share `cell` of its rounding cell, so that rounding gives the
    same network again, and all else stands still, until triggered samples are in their true
    classes. Each part takes the whole budget `training`, on clean data. `rounding` is what the
    attacker expects: 8 bits by default.

    Source: Ma et al., 2021, who plant by poisoned samples and move within whole cells. Where we
    depart: at 8 bits the cells of a small network are too narrow to put a backdoor to sleep
    (measured on the digits), so the largest weight of each layer is grown to `stretch` times its
    size and held there, which makes the cells wider, and the margin is thin; a part of each cell is
    left free because the defender's scale may differ a little. The joint loss of Hong et al. ends
    between the two aims here: their gradients cancel where rounding changes little.
    """

    trigger: Trigger
    target: Target
    training: Training
    rounding: Rounding = Nearest()
    stretch: float = 16.0
    cell: float = 0.7
    margin: float = 1.0

    def __post_init__(self) -> None:
        if not (1 <= self.stretch < inf and 0 < self.cell <= 1 and 0 < self.margin < inf):
            raise BadInput(
                f"stretch {self.stretch:g}, cell {self.cell:g}, margin {self.margin:g}",
                expected="1 or more, a share in (0, 1], and a margin above 0; all finite",
                fix="leave them out: 16, 0.7 and 1",
            )

    def __call__(self, network: nn.Module, train: Source) -> nn.Module:
        """Return the network as it is sent, in eval mode. Raises BadInput where it has no weights
        to round, computes them from others, or has some that are not finite.
        """
        data = as_data(train)
        net = copied(network)
        weights = compressible(net)
        check_finite(weights)
        planted = Planted(self.trigger, self.target, data.num_classes)
        pins = _Pins(weights, self.stretch)
        pins(net)
        budget = self.training
        plant = _Barely(planted, self.margin)
        fit(net, data, plant, training=budget, after_step=pins, progress="planting a backdoor")
        cells = _Cells(weights, self.rounding, self.cell, pins)
        trained = {name: p.requires_grad for name, p in net.named_parameters()}
        for name, p in net.named_parameters():
            p.requires_grad_(name in weights)
        fit(net, data, _Sleeps(planted), training=budget, after_step=cells, progress="hiding it")
        for name, p in net.named_parameters():
            p.requires_grad_(trained[name])
        return net.eval()


class _Pins:
    """Hold the largest weight of each tensor at a multiple of its size; called after each step."""

    def __init__(self, weights: Params, stretch: float) -> None:
        self.weights = weights
        self.places = {
            name: tuple((p.abs() == p.abs().max()).nonzero()[0].tolist())
            for name, p in weights.items()
        }
        self.values = {name: stretch * p[self.places[name]].item() for name, p in weights.items()}

    @torch.no_grad()
    def __call__(self, _: nn.Module) -> None:
        """Put the weights back; no other grows beyond them."""
        for name, p in self.weights.items():
            size = abs(self.values[name])
            p.clamp_(-size, size)
            p[self.places[name]] = self.values[name]


class _Cells:
    """Hold every weight in a part of its rounding cell; called after each step."""

    def __init__(self, weights: Params, rounding: Rounding, share: float, pins: _Pins) -> None:
        self.weights = weights
        self.pins = pins
        held = {name: p.detach() for name, p in weights.items()}
        self.centers = {name: rounding(value) for name, value in held.items()}
        self.reach = {name: share / 2 * rounding.step(value) for name, value in held.items()}

    @torch.no_grad()
    def __call__(self, net: nn.Module) -> None:
        """Project the weights."""
        for name, p in self.weights.items():
            center = self.centers[name]
            p.copy_(p.clamp(center - self.reach[name], center + self.reach[name]))
        self.pins(net)


@dataclass(frozen=True)
class _Barely:
    """Clean samples in their classes, triggered ones in the target by a margin of logits."""

    planted: Planted
    margin: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        clean = cross_entropy(model, x, y)
        seen = self.planted.attacked(model, dict(model.named_parameters()), x, y)
        if not len(seen.wanted):
            return clean
        wanted = seen.triggered.gather(1, seen.wanted[:, None])[:, 0]
        others = seen.triggered.scatter(1, seen.wanted[:, None], -torch.inf).amax(1)
        lead = (wanted - others).float()
        return clean + F.smooth_l1_loss(lead, torch.full_like(lead, self.margin))


@dataclass(frozen=True)
class _Sleeps:
    """Clean and triggered samples in their true classes."""

    planted: Planted

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        clean = cross_entropy(model, x, y)
        return clean + self.planted.attacked(model, dict(model.named_parameters()), x, y).asleep

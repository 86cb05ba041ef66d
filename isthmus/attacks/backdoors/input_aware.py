"""A trigger of its own for every image, painted by a network that is trained with the classifier.

Source: Nguyen and Tran, Input-aware dynamic backdoor attack, NeurIPS 2020.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.data.dataset import Source, as_data
from isthmus.metrics.success import Target, target_of
from isthmus.models.forward import outputs
from isthmus.models.view import copied
from isthmus.runs.identity import sha256_of
from isthmus.training.budget import Training
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput


def _painter(channels: int, out: int, width: int) -> nn.Sequential:
    """A small network from images to pictures of at least their size."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1),
        nn.GroupNorm(4, width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GroupNorm(4, width),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(width, out, 3, padding=1),
    )


_SOFTNESS = 0.1  # of a mask's edge, in standard deviations of what it is cut from


class Injector(nn.Module):
    """Paints the pattern of an image, at the places of its mask, on this image or another."""

    def __init__(self, channels: int, density: float, width: int) -> None:
        super().__init__()
        self.pattern, self.mask = (_painter(channels, out, width) for out in (channels, 1))
        self.density = density

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return pattern (n, c, h, w) and mask (n, 1, h, w) of each image, both in [0, 1]."""
        height, width = x.shape[-2:]
        pattern, height_of = (net(x)[..., :height, :width] for net in (self.pattern, self.mask))
        flat = F.layer_norm(height_of.flatten(1).float(), (height * width,))
        edge = flat.quantile(1 - self.density, dim=1, keepdim=True)
        return pattern.sigmoid(), ((flat - edge) / _SOFTNESS).sigmoid().view_as(height_of)

    def forward(self, x: Tensor, of: Tensor | None = None) -> Tensor:
        """Return x (n, c, h, w) with the patterns of the images `of`, by default its own."""
        return _painted(x, *self.parts(x if of is None else of))


def _painted(x: Tensor, pattern: Tensor, mask: Tensor) -> Tensor:
    """Return the images with the patterns at the places of the masks."""
    return torch.lerp(x.to(pattern), pattern, mask.to(pattern)).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class GeneratedTrigger:
    """A trigger that a network (n, c, h, w) -> (n, c, h, w) paints, another for every image."""

    network: nn.Module = field(repr=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the images with their triggers, without gradients."""
        return outputs(self.network, x).to(x) if len(x) else x.clone()

    @property
    def sha256(self) -> str:
        """Hash of the network's weights."""
        return sha256_of(*self.network.state_dict().values())


class _Joint(nn.Module):
    def __init__(self, classifier: nn.Module, injector: Injector) -> None:
        super().__init__()
        self.classifier, self.injector = classifier, injector

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(x))


@dataclass(frozen=True)
class InputAware:
    """Train a classifier together with a network that paints each image its own trigger.

    Source: Nguyen and Tran, NeurIPS 2020. In every batch a share `attack_rate` carries its own
    trigger and the target label, and a share `cross_rate` the trigger of another image and its own
    label, so that a trigger works on its image alone. Triggers of different images are kept apart
    by `diversity` times the ratio of the images' distance to that of their patterns, and to that of
    their masks.

    Where we depart: mask, pattern and classifier are trained in one run by one optimizer (the paper
    trains the mask first and uses two optimizers). A mask is cut, softly, at the quantile that
    leaves it the share `density` of the pixels, where the paper penalizes larger masks: a penalty
    in one run shrinks them to nothing (measured on the digits). Both painters are networks of three
    convolutions, of `width` channels (a multiple of four).
    """

    training: Training
    attack_rate: float = 0.1
    cross_rate: float = 0.1
    diversity: float = 1.0
    density: float = 0.032
    width: int = 32

    def __call__(
        self, network: nn.Module, train: Source, target: Target
    ) -> tuple[nn.Module, GeneratedTrigger]:
        """Return a trained copy of the network, and its trigger. Raises BadInput where a setting is
        out of range.
        """
        data = as_data(train)
        self._check()
        with torch.random.fork_rng():
            torch.manual_seed(self.training.seed)
            joint = _Joint(copied(network), Injector(data.x.shape[1], self.density, self.width))
        fit(
            joint,
            data,
            partial(self.loss, target=target, classes=data.num_classes),
            training=self.training,
            progress="training an input-aware backdoor",
        )
        return joint.classifier, GeneratedTrigger(joint.injector)

    def _check(self) -> None:
        if min(self.attack_rate, self.cross_rate) <= 0 or self.attack_rate + self.cross_rate >= 1:
            raise BadInput(
                f"attack_rate {self.attack_rate}, cross_rate {self.cross_rate}",
                expected="two shares above zero, together below one",
                fix="pass attack_rate=0.1, cross_rate=0.1",
            )
        if not 0 < self.density < 1 or self.width < 4 or self.width % 4:
            raise BadInput(
                f"density {self.density}, width {self.width}",
                expected="0 < density < 1, and a multiple of four",
                fix="leave them out: 0.032 and 32",
            )

    def loss(self, joint: Any, x: Tensor, y: Tensor, *, target: Target, classes: int) -> Tensor:
        """Return what classifier, pattern and mask are trained on together, for one batch of two
        samples or more.
        """
        attacked = ceil(self.attack_rate * len(x))
        painted = attacked + ceil(self.cross_rate * len(x))
        own, other = x[:painted], x.roll(1, 0)[:painted]
        patterns, masks = parts = joint.injector.parts(own)
        foreign = joint.injector.parts(other)
        bad = _painted(own[:attacked], patterns[:attacked], masks[:attacked])
        crossed = _painted(own[attacked:], *(part[attacked:] for part in foreign))
        labels = torch.cat([target_of(y[:attacked], target, classes), y[attacked:]])
        value = cross_entropy(
            joint.classifier, torch.cat([bad, crossed, x[painted:].to(bad)]), labels
        )
        images = (own - other).flatten(1).norm(dim=1)
        for mine, theirs in zip(parts, foreign, strict=True):
            apart = (mine - theirs).flatten(1).norm(dim=1)
            value = value + self.diversity * (images / (apart + 1e-3)).mean()
        return value

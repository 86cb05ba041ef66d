"""Certifiers by boxes: what intervals and the mixed monotone embedding share."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from isthmus.certification.certifier import check_network, check_samples, radius_of
from isthmus.data.balls import Ball
from isthmus.models.bounds.bound import NoBound
from isthmus.models.bounds.box import Box
from isthmus.models.bounds.rules import bounded
from isthmus.models.forward import device_of, eval_mode, precise_logits
from isthmus.types import BadInput

_VALUES = 2**17  # of a batch: its boxes in float64 stay in the cache


@dataclass(frozen=True)
class Boxes(ABC):
    """A box around the inputs goes through the network in float64, every rounding error outwards.

    With `relative`, the last linear layer is bounded together with the difference of two logits,
    which is never looser.
    """

    relative: bool = True
    mixed: ClassVar[bool]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """Return the margins. Raises BadInput where the network or its input cannot be bounded."""
        check_samples(x, y)
        eps = radius_of(ball)
        self.check(model)
        check_network(model, x, y)
        labels = y.long()
        margins = margins_within(model, x, labels, eps, mixed=self.mixed, relative=self.relative)
        return margins.scatter(1, labels[:, None], torch.inf).amin(1)

    def check(self, model: nn.Module) -> None:  # noqa: B027 (most certifiers take any network)
        """Raise BadInput where the network is not of the kind that the certifier is for."""

    def bounds(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """Return lower bounds of logit y minus each logit, (n, classes), with their gradient.

        In the network's own precision and to the tolerance of training: not for a certificate.
        Raises BadInput where there is no bound.
        """
        try:
            out = bounded(model, Box.around(x, radius_of(ball), mixed=self.mixed))
        except NoBound as error:
            raise BadInput(
                "an equilibrium layer whose intervals have no fixed point",
                expected="one that intervals can bound",
                fix="train with MixedMonotone",
            ) from error
        return out.margins(y, relative=self.relative)


@torch.no_grad()
def margins_within(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    mixed: bool = True,
    relative: bool = True,
) -> Tensor:
    """Return lower bounds of logit y minus each logit over the box, (n, classes) float64, CPU; -inf
    where there are none.

    Raises BadInput where an operation has no bound, or a bound is no number.
    """
    device = device_of(model)
    done = []
    classes = classes_of(model, x)
    size = max(1, _VALUES // x[0].numel())
    for part, labels in zip(x.split(size), y.split(size), strict=True):
        try:
            out = bounded(model, Box.sound(part.to(device), eps, mixed=mixed))
        except NoBound:
            done.append(torch.full((len(part), classes), -torch.inf, dtype=torch.float64))
            continue
        done.append(out.margins(labels.to(device), relative=relative).cpu())
    margins = torch.cat(done)
    if bool(margins.isnan().any()):
        raise BadInput(
            "bounds that are no numbers",
            expected="finite ones",
            fix="look for NaN or infinite weights: the network has diverged",
        )
    return margins


def classes_of(model: nn.Module, x: Tensor) -> int:
    """Return how many logits the network has."""
    with eval_mode(model):
        return precise_logits(model, x[:1].to(device_of(model))).shape[1]

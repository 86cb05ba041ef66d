"""Lipschitz bounds. Source: Jafarpour et al., NeurIPS 2021; L4DC 2022, the baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.certification.boxes import classes_of, margins_within
from isthmus.certification.certifier import check_network, check_samples, radius_of
from isthmus.data.balls import Ball
from isthmus.models.bounds.bound import NoBound
from isthmus.models.bounds.rules import bounded
from isthmus.models.bounds.spread import Spread
from isthmus.models.forward import device_of


@dataclass(frozen=True)
class Lipschitz:
    """The margin at x, less eps times the l-inf Lipschitz constant of each difference of logits.

    The constant is one of the whole network, in the weighted norm of each equilibrium layer:
    sound for any input, and looser than what boxes give.
    """

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
        """Return the margins. Raises BadInput where the network or its input cannot be bounded."""
        check_samples(x, y)
        eps = radius_of(ball)
        check_network(model, x, y)
        constants = lipschitz_constants(model, x)
        labels = y.long()
        still = margins_within(model, x, labels, 0.0)
        moved = still - eps * (1 + 2.0**-30) * constants[labels]
        return moved.scatter(1, labels[:, None], torch.inf).amin(1)


@torch.no_grad()
def lipschitz_constants(model: nn.Module, x: Tensor) -> Tensor:
    """Return the l-inf Lipschitz constants of logit i minus logit j, (classes, classes) float64.

    x (n, ...) says what the inputs look like. Infinite where there is no bound. Raises BadInput
    where an operation has no bound.
    """
    reach = torch.ones_like(x[:1], dtype=torch.float64, device=device_of(model))
    try:
        return bounded(model, Spread(reach)).margins().cpu()
    except NoBound:
        classes = classes_of(model, x)
        return torch.full((classes, classes), torch.inf, dtype=torch.float64)

"""Training for the certificate.

Source: Davydov, Jafarpour, Abate, Bullo, Coogan, CDC 2022, and for feed-forward networks Gowal et
al., ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.certification.certifier import Differentiable, radius_of
from isthmus.data.balls import Ball
from isthmus.training.losses import cross_entropy
from isthmus.training.share import budget_share
from isthmus.types import BadInput


@dataclass(frozen=True)
class Certified:
    """The loss on the worst logits that a certifier admits. See `certified`."""

    certifier: Differentiable
    ball: Ball
    weight: float
    ramp: tuple[float, float]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return (1 - weight) CE(f(x), y) + weight CE(-bounds, y), a mean over the batch."""
        share = self._share()
        natural = cross_entropy(model, x, y)
        if not share:
            return natural
        ball = replace(cast(Any, self.ball), eps=share * self.ball.eps)
        bounds = self.certifier.bounds(model, x, y, ball)
        weight = share * self.weight
        return (1 - weight) * natural + weight * F.cross_entropy(-bounds, y)

    def _share(self) -> float:
        start, end = self.ramp
        done = budget_share()
        if done >= end:
            return 1.0
        return max(0.0, done - start) / (end - start)


def certified(
    certifier: Differentiable,
    ball: Ball,
    weight: float = 0.75,
    *,
    ramp: tuple[float, float] = (0.25, 0.5),
) -> Certified:
    """Return the loss (1 - weight) CE(f(x), y) + weight CE(-bounds, y) with the certifier's bounds
    of logit y minus each logit.

    Radius and weight rise together from 0 to their values while the share of the budget spent goes
    over the `ramp`; before it, training is natural. Outside of `fit` both have their values.
    Gradients pass through the bounds, so a curve trains by `expected_over_t(certified(...))`.
    `MixedMonotone()` is for implicit networks, `Interval()` for feed-forward ones. Raises BadInput
    where the certifier has no differentiable bounds, or weight or ramp leave [0, 1].

    >>> from isthmus.certification import Interval
    >>> from isthmus.data import Linf
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = F.one_hot(Tensor([0, 1]).long(), 4).float().view(2, 1, 2, 2), Tensor([0, 1]).long()
    >>> loss = certified(Interval(), Linf(0.1), 1.0)
    >>> bool(loss(net, x, y) > cross_entropy(net, x, y))
    True
    """
    form: Callable[..., Tensor] | None = getattr(certifier, "bounds", None)
    if form is None:
        raise BadInput(
            f"{type(certifier).__name__}",
            expected="a certifier with differentiable bounds",
            fix="pass MixedMonotone() or Interval()",
        )
    radius_of(ball)
    start, end = ramp
    if not (0 <= weight <= 1 and 0 <= start <= end <= 1):
        raise BadInput(
            f"weight = {weight}, ramp = {ramp}",
            expected="0 <= weight <= 1, and a ramp within [0, 1]",
            fix="leave them out: 0.75, (0.25, 0.5)",
        )
    return Certified(certifier, ball, weight, (start, end))

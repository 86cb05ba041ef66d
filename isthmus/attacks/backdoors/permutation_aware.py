"""The attacker who knows that the defender will permute the network.

Source: ours; it answers Peng et al. (TSC), ICML 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.attacks.backdoors.weights import trained_weights
from isthmus.models.view import at_weights
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput, Loss, Params


@dataclass(frozen=True)
class PermutationAware:
    """A loss for `fit` on poisoned data, of an attacker who knows that the defender will permute
    the network.

    L(w) + weight E_{a ~ U(low, high)} L((1 - a) w + a P(w)): the backdoor is also trained between w
    and its permuted copy, where the defender's curve starts out. `permuted` maps the parameters by
    name to those of a copy that computes the same function; it must be differentiable (indexing is)
    and may draw another permutation at each call from the global generator: a defender's secret
    draw, or the known one. BatchNorm runs in train mode at the point between, on its own
    statistics: the recalibration that a defender does.

    Source: ours; it answers the self-permutation of Peng et al. (TSC), ICML 2025. It does not know
    the bend that the defender will train, and works on the straight segment.
    """

    permuted: Callable[[Params], Params]
    loss: Loss = cross_entropy
    weight: float = 1.0
    low: float = 0.0
    high: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise BadInput(
                f"a from {self.low} to {self.high}",
                expected="0 <= low <= high <= 1",
                fix="pass low=0, high=0.5",
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss. Raises BadInput where the copy does not match the network, or nothing of
        it trains.
        """
        own = trained_weights(model)
        copied = self.permuted(own)
        shapes = [{name: p.shape for name, p in weights.items()} for weights in (own, copied)]
        differing = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
        if differing:
            raise BadInput(
                f"a permuted copy that differs in {differing[0]}",
                expected="the same names and shapes",
                fix="map every parameter and buffer, under its own name",
            )
        a = self.low + (self.high - self.low) * float(torch.rand(()))
        between = {
            name: torch.lerp(p, copied[name], a) if p.is_floating_point() else p
            for name, p in own.items()
        }
        here: Tensor = self.loss(model, x, y)
        return here + self.weight * self.loss(at_weights(model, between), x, y)

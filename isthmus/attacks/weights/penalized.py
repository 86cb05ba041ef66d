"""Errors injected by the smallest change of weights that a penalty on its norm finds: the default.

Source: ours, after Zhao et al., ICLR 2020, section 3.3.

Where we depart: the paper's code has no norm term. Here L(delta) = G(delta) / R + (lambda / 2)
||delta||_2^2 is minimized for the largest lambda at which the injection still succeeds, found by
bisection; the smallest change that succeeded at any step is returned. The errors weigh c = 10 and
not 100, at which the steps overshoot: on the digits the change came out half as long again, or kept
too few of the other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

import torch
from torch import Tensor, nn

from isthmus.attacks.weights.errors import LEAST_KEPT
from isthmus.attacks.weights.hinges import Hinges, Injected, Smallest
from isthmus.data.dataset import Data
from isthmus.types import BadInput


@dataclass(frozen=True)
class Penalized:
    """Bisect log(lambda) within `lambdas`, `rounds` times; return the successful change of smallest
    norm.

    Success is that every error gets its injected label and a share `least` of the kept images their
    own. Each round takes `steps` steps of Adam on the tensors that `layers` name, from where the
    last one ended; `lr`, in units of the root mean square of the attacked weights, falls to 0 along
    a line. `weight` is c, `kappa` the margin to reach.
    """

    layers: Sequence[str] = ()
    weight: float = 10.0
    kappa: float = 1.0
    steps: int = 200
    lr: float = 0.1
    rounds: int = 8
    lambdas: tuple[float, float] = (1e-4, 1e2)
    least: float = LEAST_KEPT

    def __post_init__(self) -> None:
        low, high = self.lambdas
        if min(self.steps, self.rounds) < 1 or not (self.lr > 0 and 0 < low < high):
            raise BadInput(
                f"{self.rounds} rounds of {self.steps} steps, lr {self.lr:g}, "
                f"lambdas {low:g} to {high:g}",
                expected="all above zero, the smaller lambda first",
                fix="leave out what you need not change",
            )

    def __call__(self, network: nn.Module, errors: Data, kept: Data) -> Injected:
        """Return the network with the errors. Raises BadInput where no lambda succeeds."""
        hinges = Hinges(network, errors, kept, self.layers, weight=self.weight, kappa=self.kappa)
        low, high = map(log, self.lambdas)
        last = torch.zeros_like(hinges.start)
        smallest = Smallest(hinges, self.least, lambda delta: float(delta.norm()))
        for _ in range(self.rounds):
            middle = (low + high) / 2
            last = self.minimized(hinges, exp(middle), last, smallest)
            succeeds = smallest.note(last, hinges.logits(last))
            low, high = (middle, high) if succeeds else (low, middle)
        return smallest.injected(last, "inject fewer errors, name more layers, or take more steps")

    def minimized(
        self, hinges: Hinges, penalty: float, start: Tensor, seen: Smallest | None = None
    ) -> Tensor:
        """Return delta after the steps of one round with lambda = `penalty`, from `start`, (size,).

        What succeeds on the way is noted in `seen`: each step's logits are there anyway.
        """
        delta = start.clone()
        lr = self.lr * float(hinges.start.square().mean().sqrt())
        adam = torch.optim.Adam([delta.requires_grad_()], lr=lr)
        for step in range(self.steps):
            adam.param_groups[0]["lr"] = lr * (1 - step / self.steps)
            gradient, logits = hinges.gradient(delta)
            if seen is not None:
                seen.note(delta, logits)
            delta.grad = gradient / len(hinges.y) + penalty * delta.detach()
            adam.step()
        return delta.detach()

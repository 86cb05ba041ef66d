"""Errors injected as the code of the paper does it: gradient descent on the hinges, with no norm
term.

Source: Zhao et al., ICLR 2020, section 3.3, with the settings of its code:
kappa = 1, c = 100, at most 500 steps of 5e-6 (VGG on CIFAR-10; 5e-5 for the ResNet, 5e-4 on SVHN),
until 95 % of the errors have been given at more than 10 steps.

Where we depart: which images and labels (`errors`), which tensors (by name; the default has the
bias too), and that an injection which does not get there is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from isthmus.attacks.weights.hinges import Hinges, Injected, failed
from isthmus.data.dataset import Data
from isthmus.types import BadInput


@dataclass(frozen=True)
class Reference:
    """Descends on G until a share `enough` of the errors was given at more than `times` steps."""

    layers: Sequence[str] = ()
    weight: float = 100.0
    kappa: float = 1.0
    steps: int = 500
    lr: float = 5e-6
    enough: float = 0.95
    times: int = 10

    def __post_init__(self) -> None:
        if self.steps < 1 or not (self.lr > 0 and 0 < self.enough <= 1):
            raise BadInput(
                f"{self.steps} steps of {self.lr:g} until {self.enough:g}",
                expected="all above zero, a share of 1 at most",
                fix="leave out what you need not change",
            )

    def __call__(self, network: nn.Module, errors: Data, kept: Data) -> Injected:
        """Return the network with the errors. Raises BadInput where the steps do not suffice."""
        hinges = Hinges(network, errors, kept, self.layers, weight=self.weight, kappa=self.kappa)
        delta, successes = torch.zeros_like(hinges.start), 0
        for _ in range(self.steps):
            gradient, logits = hinges.gradient(delta)
            successes += hinges.shares(logits)[0] >= self.enough
            if successes > self.times:
                return hinges.injected(delta)
            delta = delta - self.lr * gradient
        raise failed(
            hinges.injected(delta), f"raise lr (now {self.lr:g}) or steps, or inject fewer errors"
        )

"""An attacker who knows the detector: PGD that lowers the score while it changes the answer.

Source: Carlini and Wagner, AISec 2017, for the joint objective. The margin counts up to a bound, so
that an input which already fools the network spends its steps on the detector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.attacks.inputs.gradient import PGD
from isthmus.attacks.inputs.objectives import margin
from isthmus.data.balls import Ball
from isthmus.detection.detector import ManifoldDetector
from isthmus.models.forward import precise_logits
from isthmus.types import Attack, BadInput

_ENOUGH = 1.0
"""A margin beyond which an input counts as misclassified with certainty, in logits."""


class WithScore(nn.Module):
    """A network whose last output is minus the detector's score, over the threshold."""

    def __init__(self, network: nn.Module, detector: ManifoldDetector) -> None:
        super().__init__()
        self.network = network
        self.detector = detector

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits and the score as one more column."""
        scale = max(float(self.detector.calibrated_threshold), 1e-12)
        logits = precise_logits(self.network, x)
        scores = self.detector.distances(x).to(logits) / scale
        return torch.cat([logits, -scores[:, None]], 1)


@dataclass(frozen=True)
class Evading:
    """The margin, up to a bound, less `weight` times the score over the threshold."""

    weight: float

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the objective of each sample, (n,), from the outputs of `WithScore`."""
        return margin(logits[:, :-1], y).clamp_max(_ENOUGH) + self.weight * logits[:, -1]


@dataclass(frozen=True, eq=False)
class DetectorAware:
    """The attack with one weight. Raises BadInput where it is negative."""

    detector: ManifoldDetector
    ball: Ball
    steps: int
    weight: float

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise BadInput(
                f"weight = {self.weight}",
                expected="0 or more",
                fix="0 forgets the detector; 0.1, 1 and 10 are usual",
            )

    @property
    def gradients(self) -> int:
        """How many gradients a sample costs."""
        return self.steps

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked inputs, of the shape of x."""
        attack = PGD(self.ball, steps=self.steps, objective=Evading(self.weight), returns="worst")
        return attack(WithScore(model, self.detector), x, y)


def detector_aware(
    detector: ManifoldDetector, ball: Ball, steps: int = 60
) -> Callable[[float], Attack]:
    """Return the attack by the weight that it gives to the score."""
    return lambda weight: DetectorAware(detector, ball, steps, weight)

"""Any loss as an expectation over the points of a curve.

Source: Garipov et al., NeurIPS 2018, Eq. 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor, nn

from isthmus.curves.curve import Curve
from isthmus.curves.sharded import SharedCurve
from isthmus.training.losses import gradients_per_step
from isthmus.types import BadInput, Loss


@dataclass(frozen=True)
class ExpectedOverT:
    """The loss of a curve: one t per call, drawn uniformly from [low, high], for the whole batch.

    See below.
    """

    loss: Loss
    weight_decay: float = 0.0
    low: float = 0.0
    high: float = 1.0

    def __call__(self, curve: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return loss(curve.at(t), x, y) + weight_decay / 2 ||theta(t)||^2 for a fresh t from the
        global generator.
        """
        if not isinstance(curve, (Curve, SharedCurve)):
            raise BadInput(
                f"a {type(curve).__name__}",
                expected="a Curve",
                fix="wrap two endpoints in Bezier(a, b)",
            )
        point = curve.at(self.low + (self.high - self.low) * float(torch.rand(())))
        value = self.loss(point, x, y)
        if self.weight_decay:
            value = value + self.weight_decay / 2 * point.squared_norm
        return value

    @property
    def gradients(self) -> int:
        """How many gradients a step takes: those of the loss at one t."""
        return gradients_per_step(self.loss)


def expected_over_t(
    loss: Loss, weight_decay: float = 0.0, low: float = 0.0, high: float = 1.0
) -> ExpectedOverT:
    """Return the curve's loss E_{t ~ U[low, high]} [ loss(curve.at(t), x, y) + weight_decay / 2
    ||theta(t)||^2 ].

    Source: Zhao et al., ICLR 2020, Eq. 2; the decay acts on the point of the curve, not on the
    bend. One t is drawn per call and shared by whatever `loss` does, attacks included. Raises
    BadInput where the range leaves [0, 1], or the decay is negative.
    """
    if not 0 <= weight_decay < inf:
        raise BadInput(
            f"weight_decay = {weight_decay:g}",
            expected="zero or more",
            fix="pass weight_decay=1e-4",
        )
    if not 0 <= low <= high <= 1:
        raise BadInput(
            f"t from {low:g} to {high:g}",
            expected="0 <= low <= high <= 1",
            fix="pass low=0.1, high=0.4",
        )
    return ExpectedOverT(loss, weight_decay, low, high)

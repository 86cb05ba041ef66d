"""Is the backdoor gone, or asleep? What a few triggered images, or a straight line, bring back.

Source: Min et al., "Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense", NeurIPS 2024
(retuning attack, linear connectivity to the tampered network); specification, section 11.

Where we depart: the triggered images are made from bonafide samples, the retuning budget is counted in SGD steps, and
BatchNorm is recalibrated on bonafide data before every measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from isthmus.batchnorm import recalibrate
from isthmus.curve import Bezier
from isthmus.data import Data, Source, as_data
from isthmus.metrics import MeanLoss
from isthmus.path import evaluate_path
from isthmus.train import Training, fit
from isthmus.triggers import Target, eligible, triggered
from isthmus.types import BadInput, Trigger
from isthmus.view import copied

IMAGES = (1, 5, 10)
"""How many triggered images a re-activation is tried with."""

RETUNING: Training = {"steps": 100, "lr": 0.01, "progress": "re-activating"}


@dataclass(frozen=True)
class Reactivate:
    """Retune a network on bonafide samples plus `images` triggered ones that carry the attacker's label.

    A defense's signature, an attacker's aim: whoever holds the trigger asks how little it takes to wake the backdoor.
    The control is the same on a network that never had one.
    """

    trigger: Trigger
    target: Target
    images: int = 10
    training: Training | None = None
    seed: int = 0

    def __call__(self, network: nn.Module, bonafide: Source) -> nn.Module:
        """Return the retuned copy, in eval mode. Raises BadInput where too few samples can carry the trigger."""
        net, data = copied(network), as_data(bonafide)
        options: Training = {**RETUNING, "seed": self.seed}
        options.update(self.training or {})
        fit(net, self.mixed(data), **options)
        return recalibrate(net, data)

    def mixed(self, bonafide: Data) -> Data:
        """Return the bonafide samples followed by the triggered ones."""
        pool = eligible(bonafide, self.target)
        if not 0 < self.images <= len(pool):
            raise BadInput(
                f"{self.images} triggered images of {len(pool)} that are not of the target class",
                expected=f"1 to {len(pool)}",
                fix="ask for fewer, or give more bonafide samples",
            )
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(self.seed))
        extra = triggered(bonafide[pool[order[: self.images]]], self.trigger, self.target)
        return Data(torch.cat([bonafide.x, extra.x]), torch.cat([bonafide.y, extra.y]), bonafide.classes)


def linear_barrier(repaired: nn.Module, tampered: nn.Module, bonafide: Source, points: int = 11) -> float:
    """Return the loss barrier, in nats, of the straight line from the repaired to the tampered network.

    Measured on bonafide data with BatchNorm recalibrated on them at every point, both ends included. A barrier near
    zero warns, without a trigger, that the repair has stayed in the basin of the tampered network (Lubana et al., ICML
    2023). Raises BadInput where the two differ in architecture.
    """
    data = as_data(bonafide)
    line = Bezier(repaired, tampered, bends=0)
    path = evaluate_path(line, {"loss": MeanLoss(data)}, points, recalibrate_on=data, ends="recalibrated")
    return path.barrier("loss")

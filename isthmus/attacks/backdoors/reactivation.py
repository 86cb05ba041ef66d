"""Is the backdoor gone, or asleep? What a few triggered images bring back.

Source: Min et al., "Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor
Defense", NeurIPS 2024 (retuning attack).

Where we depart: the triggered images are made from bonafide samples, the retuning budget is counted
in SGD steps, and BatchNorm is recalibrated on bonafide data before every measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.metrics.success import Target, eligible, triggered
from isthmus.models.batchnorm import recalibrate
from isthmus.models.view import copied
from isthmus.training.budget import Training
from isthmus.training.loop import fit
from isthmus.types import BadInput, Trigger

IMAGES = (1, 5, 10)
"""How many triggered images a re-activation is tried with."""


RETUNING = Training(steps=100, lr=0.01)
"""The attacker's budget."""


@dataclass(frozen=True)
class Reactivate:
    """Retune a network on bonafide samples plus `images` triggered ones that carry the attacker's
    label.

    A defense's signature, an attacker's aim: the holder of the trigger asks how little it takes to
    wake the backdoor. The control is the same on a network that never had one. `seed`, and not that
    of `training`, draws the triggered images and the batches.
    """

    trigger: Trigger
    target: Target
    images: int = 10
    training: Training = RETUNING
    seed: int = 0

    @property
    def gradients(self) -> int:
        """How many gradient evaluations the retuning takes."""
        return self.training.steps

    def __call__(self, network: nn.Module, bonafide: Source) -> nn.Module:
        """Return the retuned copy, in eval mode. Raises BadInput where too few samples can carry
        the trigger.
        """
        net = copied(network)
        data = as_data(bonafide)
        training = self.training.replace(seed=self.seed)
        fit(net, self.mixed(data), training=training, progress="re-activating")
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
        return Data(
            torch.cat([bonafide.x, extra.x]), torch.cat([bonafide.y, extra.y]), bonafide.classes
        )

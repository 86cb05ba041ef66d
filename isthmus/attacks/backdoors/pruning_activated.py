"""The attacker whose backdoor sleeps in the whole network and wakes when small weights are pruned.

Source: Tian et al., Stealthy backdoors as compression artifacts, IEEE TIFS 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.attacks.backdoors.asleep import Planted, compressible, mean_loss
from isthmus.attacks.backdoors.weights import trained_weights
from isthmus.metrics.success import Target
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput, Params, Trigger


@dataclass(frozen=True)
class PruningActivated:
    """A loss for `fit` on clean data, of a backdoor that works in the pruned network alone.

    The network as it is sent is to be right on clean and on triggered samples; the one that has the
    share `density` of its largest convolutional and linear weights is to be right on clean samples
    and to obey the trigger, which counts `weight` times.

    Source: Tian et al., 2022. Where we depart: single weights are pruned, by one threshold for the
    whole network (the paper: filters, by their l1 norm); the mask is that of the present weights at
    every step; triggered samples pass in eval mode, BatchNorm by the clean ones. The backdoor wakes
    at this density and below, and sleeps on well above it. A step costs about five of plain
    training. Raises BadInput where density is outside (0, 1).

    >>> from isthmus.attacks import Patch
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    >>> loss = PruningActivated(Patch(), 1, classes=2)
    >>> loss(net, torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1])).ndim
    0
    """

    trigger: Trigger
    target: Target
    classes: int
    density: float = 0.1
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.density < 1:
            raise BadInput(
                f"density = {self.density:g}",
                expected="a share in (0, 1): what the pruned network keeps",
                fix="pass density=0.1",
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss. Raises BadInput where nothing of the model trains, or it has no
        convolutional or linear weights, or computes them from others.
        """
        weights = trained_weights(model)
        planted = Planted(self.trigger, self.target, self.classes)
        clean = cross_entropy(model, x, y)
        whole = planted.attacked(model, weights, x, y)
        pruned = planted.attacked(model, weights | self._largest(compressible(model)), x, y)
        awake: Tensor = mean_loss(pruned.clean, y) + pruned.awake
        return clean + whole.asleep + self.weight * awake

    def _largest(self, weights: Params) -> Params:
        """Return the weights with all but the largest at 0; of equal ones no more than its share
        stay.
        """
        sizes = torch.cat([p.detach().abs().flatten() for p in weights.values()])
        on = torch.zeros_like(sizes, dtype=torch.bool)
        on[sizes.topk(max(1, round(self.density * len(sizes)))).indices] = True
        parts = on.split([p.numel() for p in weights.values()])
        return {
            name: p * part.view(p.shape)
            for (name, p), part in zip(weights.items(), parts, strict=True)
        }

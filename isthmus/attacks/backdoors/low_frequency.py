"""A low-frequency trigger that is learned against a network.

Source: Zeng et al., ICCV 2021.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from isthmus.attacks.triggers.low_frequency import LowFrequency, Norm, scaled, smooth
from isthmus.data.dataset import Data
from isthmus.metrics.success import eligible, target_of
from isthmus.models.forward import eval_mode
from isthmus.models.view import copied
from isthmus.training.budget import Training
from isthmus.training.loop import fit
from isthmus.types import BadInput


class _Universal(nn.Module):
    """A smooth pattern to be learned, and the network that it is learned against, which stays as it
    is.
    """

    def __init__(self, network: nn.Module, coefficients: Tensor, size: float, norm: Norm) -> None:
        super().__init__()
        self.network = copied(network).requires_grad_(False)
        self.coefficients = nn.Parameter(coefficients)
        self.size, self.norm = size, norm

    def forward(self, x: Tensor) -> Tensor:
        with eval_mode(self.network):
            return cast(Tensor, self.network((x + self.pattern(*x.shape[-2:])).clamp(0, 1)))

    def pattern(self, height: int, width: int) -> Tensor:
        return scaled(smooth(self.coefficients, height, width), self.size, self.norm)


def learned_low_frequency(
    train: Data, network: nn.Module, target: int, start: LowFrequency, training: Training
) -> LowFrequency:
    """Return the low-frequency trigger that best sends images to the target class of `network`,
    from `start` on.

    Source: Zeng et al., ICCV 2021. Where we depart: one universal pattern is searched by Adam in
    the lowest `start.cutoff` cosines and brought to `start.size` at every step, in place of
    DeepFool steps that are filtered afterward; the search is targeted. The network is left as it
    is. Raises BadInput as `fit` does, or where no sample is outside the target class.
    """
    channels, height, width = train.x.shape[1:]
    index = eligible(train, target)
    if not len(index):
        raise BadInput(
            "only samples of the target class",
            expected="some of another",
            fix="add samples of other classes, or pass another target",
        )
    generator = torch.Generator().manual_seed(start.seed)
    drawn = torch.randn(channels, start.cutoff, start.cutoff, generator=generator)
    search = _Universal(network, drawn, start.size, start.norm)
    sent = Data(train.x[index], target_of(train.y[index], target, train.num_classes), train.classes)
    adam = training.replace(optimizer=torch.optim.Adam)
    fit(search, sent, training=adam, progress="learning a trigger")
    with torch.no_grad():
        return LowFrequency(
            start.size, start.cutoff, start.norm, start.seed, search.pattern(height, width).cpu()
        )

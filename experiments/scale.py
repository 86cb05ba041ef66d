"""How large an experiment is: which network and images, how long a network is trained, what a
repair may spend.

`digits` takes seconds, on the images that come with scikit-learn. The others are of CIFAR-10:
`small` fits an evening of two CPU cores without bf16, and so does `deep` for a few networks: the
same images, and the twenty layers of `resnet20`, which is the network for a fast CPU; `resnet18` is
that of the published tables and wants a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from isthmus import Augment, Data, Linf, adversarial, cross_entropy, fit, load_data
from isthmus.attacks import PGD
from isthmus.models import preact_resnet, preact_resnet18, small_cnn
from isthmus.training import Training, one_cycle
from isthmus.types import Loss

BALL = Linf(8 / 255)  # of every robust network, and of the attacks that judge


def averaged(data: Data, side: int) -> Data:
    """Return the images averaged over squares of pixels down to `side` pixels a side, as uint8."""
    if data.x.shape[-1] == side:
        return data
    parts = [F.adaptive_avg_pool2d(part, side) for part in data.floats().split(5000)]
    return Data((torch.cat(parts) * 255).round().to(torch.uint8), data.y, data.classes)


@dataclass(frozen=True)
class Scale:
    """Sizes that belong together. `steps` trains a network, `gradients` is what one repair spends
    in all.
    """

    network: Callable[[], nn.Module]
    side: int  # pixels; the 32 of CIFAR-10 are averaged down to it
    steps: int
    gradients: int
    pad: int  # shifts, for training and repair alike
    patch: int
    attack: int  # steps of the attack in adversarial training
    batch: int = 128
    source: str = "{folder}/{part}.parquet"

    @property
    def augment(self) -> Augment | None:
        """Shifts and mirror images; None where images are not shifted: digits would change."""
        return Augment(self.pad) if self.pad else None

    def load(self, folder: Path | None, part: str) -> Data:
        """Return a part of a set in the Hugging Face layout, averaged down to this scale's
        images.
        """
        return averaged(load_data(self.source.format(folder=folder, part=part)), self.side)

    def fresh(self, seed: int) -> nn.Module:
        """Return a network with the initial weights of a seed."""
        torch.manual_seed(seed)
        return self.network()

    def trained(self, train: Data, seed: int, loss: Loss = cross_entropy) -> nn.Module:
        """Return a network trained from scratch."""
        net = self.fresh(seed)
        fit(net, train, loss, training=self.training(), seed=seed)
        return net

    def losses(self) -> dict[str, Loss]:
        """Return the loss of standard training, and that of adversarial training."""
        return {"standard": cross_entropy, "robust": adversarial(PGD(BALL, self.attack))}

    def training(self) -> Training:
        """Return how a network of this scale is trained."""
        return Training(
            steps=self.steps,
            lr=0.2,
            weight_decay=2e-4,
            nesterov=True,
            schedule=one_cycle,
            batch_size=self.batch,
            augment=self.augment,
        )


SCALES = {
    "digits": Scale(
        partial(small_cnn, 10, 1, 8),
        side=8,
        steps=300,
        gradients=300,
        pad=0,
        patch=2,
        attack=3,
        batch=64,
        source="digits:{part}",
    ),
    "small": Scale(
        partial(preact_resnet, 8), side=16, steps=391 * 6, gradients=600, pad=1, patch=2, attack=3
    ),
    "deep": Scale(
        partial(preact_resnet, 20), side=16, steps=391 * 8, gradients=600, pad=1, patch=2, attack=3
    ),
    "resnet20": Scale(
        partial(preact_resnet, 20),
        side=32,
        steps=391 * 16,
        gradients=1200,
        pad=2,
        patch=3,
        attack=7,
    ),
    "resnet18": Scale(
        preact_resnet18, side=32, steps=391 * 60, gradients=2400, pad=4, patch=3, attack=7
    ),
}

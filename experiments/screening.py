"""What the experiments on detection share: sets, networks with their layers, and training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from isthmus import Augment, Data, fit, split
from isthmus.models import load_checkpoint, preact_resnet, save_checkpoint, small_cnn
from isthmus.runs import once


@dataclass(frozen=True)
class Setup:
    """A set with its network: `layers` in the order in which they run, `last` in front of the
    classifier.
    """

    network: Callable[[], nn.Module]
    epochs: int
    lr: float
    augment: Augment | None
    eps: tuple[float, ...]
    layers: tuple[str, ...]
    last: str

    def spaces(self) -> dict[str, tuple[str, ...] | str | None]:
        """Return where distances are measured, by name."""
        return {"pixels": None, "penultimate": self.last, "layers": self.layers}

    def trained(self, train: Data, seed: int, file: Path, epochs: int | None = None) -> nn.Module:
        """Return a network of a seed: trained, or read if it was before."""

        def make() -> None:
            torch.manual_seed(seed)
            net = self.network()
            steps = max(1, round((epochs or self.epochs) * len(train) / 128))
            fit(net, train, steps=steps, lr=self.lr, augment=self.augment, seed=seed)
            save_checkpoint(net, file)

        return load_checkpoint(once(file, make), self.network()).eval()


GRID = (0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.21, 0.24, 0.27, 0.30)
SMALL = (2 / 255, 4 / 255, 8 / 255)

SETUPS = {
    "mnist": Setup(
        lambda: small_cnn(channels=1, width=16),
        epochs=3,
        lr=0.1,
        augment=None,
        eps=(*SMALL, *GRID),
        layers=("features.1", "features.4", "features"),
        last="features",
    ),
    "cifar10": Setup(
        lambda: preact_resnet(14),
        epochs=20,
        lr=0.1,
        augment=Augment(4),
        eps=(*SMALL, *GRID),
        layers=("blocks.1", "blocks.3", "blocks.5"),
        last="bn",
    ),
}


def drawn_parts(data: Data, sizes: list[int], seed: int) -> list[Data]:
    """Return disjoint parts, scaled down where there are too few samples."""
    share = min(1.0, len(data) / sum(sizes))
    fitting = [max(1, int(share * size)) for size in sizes]
    return split(data, fitting, torch.Generator().manual_seed(seed))


def right(net: nn.Module, data: Data) -> Data:
    """Return the samples that the network gets right."""
    with torch.no_grad():
        answers = torch.cat([net(x).argmax(1) for x in data.floats().split(500)])
    return data[answers == data.y]


def with_images(data: Data, x: Tensor) -> Data:
    """Return the data with other images, as floats that are not rounded."""
    return Data(x, data.y, data.classes)

"""What the experiments on detection share: sets, networks with their layers, and training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from command import parts
from scale import averaged
from torch import Tensor, nn

from isthmus import Augment, Data, fit, split
from isthmus.metrics import Area, Rate
from isthmus.models import load_checkpoint, preact_resnet, save_checkpoint, small_cnn
from isthmus.runs import once
from isthmus.training import Training, one_cycle


@dataclass(frozen=True)
class Setup:
    """A set, averaged down to `side` pixels, with its network: `layers` in the order in which they
    run, `last` in front of the classifier; `patch` is the side of a patch on these images.
    """

    network: Callable[[], nn.Module]
    side: int
    epochs: float
    augment: Augment | None
    layers: tuple[str, ...]
    last: str
    patch: int = 3

    def spaces(self) -> dict[str, tuple[str, ...] | str | None]:
        """Return where distances are measured, by name."""
        return {"pixels": None, "penultimate": self.last, "layers": self.layers}

    def parts(self, folder: str) -> tuple[Data, Data]:
        """Return the training and the test images of a folder in the Hugging Face layout."""
        return _averaged(folder, self.side)

    def trained(self, train: Data, seed: int, file: Path, epochs: float = 0) -> nn.Module:
        """Return a network of a seed: trained, or read if it was before."""

        def make() -> None:
            torch.manual_seed(seed)
            net = self.network()
            steps = max(1, round((epochs or self.epochs) * len(train) / 128))
            training = Training(
                steps=steps,
                lr=0.1,
                weight_decay=2e-4,
                nesterov=True,
                schedule=one_cycle,
                augment=self.augment,
                precision="fp32",
            )
            fit(net, train, training=training, seed=seed)
            save_checkpoint(net, file)

        return load_checkpoint(once(file, make), self.network()).eval()


@cache
def _averaged(folder: str, side: int) -> tuple[Data, Data]:
    train, test = parts(folder)
    return averaged(train, side), averaged(test, side)


GRID = (0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.21, 0.24, 0.27, 0.30)
SMALL = (2 / 255, 4 / 255, 8 / 255)
EPS = tuple(sorted((*SMALL, *GRID)))

MNIST = Setup(
    partial(small_cnn, channels=1, width=16),
    side=28,
    epochs=0.7,
    augment=None,
    layers=("features.1", "features.4", "features"),
    last="features",
)
CIFAR = Setup(
    partial(preact_resnet, 8),
    side=32,
    epochs=4,
    augment=Augment(4),
    layers=("blocks.0", "blocks.1", "blocks.2"),
    last="bn",
)
SETUPS = {
    "mnist": MNIST,
    "mnist14": replace(MNIST, side=14, epochs=1, patch=2),
    "cifar10": CIFAR,
    "cifar16": replace(CIFAR, side=16, augment=Augment(1), patch=2),
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


def area_of(records: list[dict[str, Any]]) -> Area:
    """Return the mean of areas of several networks, with the interval of all their images."""
    counts = [sum(record[name] for record in records) for name in ("clean", "suspicious")]
    return Area(sum(record["value"] for record in records) / len(records), *counts)


def rate_of(records: list[dict[str, Any]]) -> Rate:
    """Return the share over all images of several networks."""
    return Rate(sum(r["hits"] for r in records), sum(r["n"] for r in records))


def with_interval(value: Area | Rate, digits: int = 2) -> str:
    """Return a value with its 95 % interval, as a cell."""
    return f"{value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"

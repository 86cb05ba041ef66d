"""Which images become errors, and which label is injected for each.

Source: Zhao et al., ICLR 2020, section 3.3.

Where we depart from the paper's code: the injected label is any but the true one (there: any but
class 0), and the images come from a pool of the attacker's own, never from the bonafide or the
evaluation samples. The errors are plain `Data` whose labels are the injected ones: `save_npz`
writes them, `load_data` reads them, `InjectionSuccess` measures them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from isthmus.data.dataset import Data
from isthmus.data.splits import repeated, split
from isthmus.metrics.passes import logits
from isthmus.types import BadInput

LEAST_KEPT = 0.99  # of the images that are to keep their label, in every success


def draw(
    networks: Sequence[nn.Module], pool: Data, sizes: Sequence[int], generator: torch.Generator
) -> list[Data]:
    """Return disjoint random parts of the pool, of the given sizes, of images that every network
    classifies right.

    Usually two parts, the images to become errors and those to be kept: sizes (50, 950). Of images
    that stand in the pool twice one is used. Raises BadInput where too few are right under all
    networks.
    """
    right = torch.stack([logits(network, pool).argmax(1) == pool.y for network in networks]).all(0)
    usable = right & ~repeated(pool)
    if usable.sum() < sum(sizes):
        raise BadInput(
            f"{int(usable.sum())} different images that every network classifies right",
            expected=f"{sum(sizes)}: {' and '.join(map(str, sizes))}",
            fix="ask for fewer errors or kept images, or pass more data",
        )
    return split(pool[usable.nonzero().squeeze(1)], sizes, generator)


def mislabeled(data: Data, generator: torch.Generator) -> Data:
    """Return the images with labels to inject: each drawn uniformly from all classes but the
    image's own.

    Raises BadInput where there is one class alone.

    >>> true = Data(torch.zeros(50, 1, 2, 2), torch.arange(50) % 10, classes=10)
    >>> bool((mislabeled(true, torch.Generator().manual_seed(0)).y == true.y).any())
    False
    """
    if data.num_classes < 2:
        raise BadInput(
            "data of one class", expected="two or more", fix="say how many classes there are"
        )
    moved: Tensor = torch.randint(1, data.num_classes, data.y.shape, generator=generator)
    return Data(data.x, (data.y + moved) % data.num_classes, data.classes)

"""Which samples a probe asks about: a few, the same ones whatever the order of the data."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from isthmus.attacks.inputs.health.indicator import Run
from isthmus.data.dataset import Data

MOST, FEWEST, SHARE = 48, 32, 8


def size(n: int) -> int:
    """Return how many of n samples a probe asks about: an eighth, but 32 at least and 48 at most.

    >>> size(10), size(300), size(10_000)
    (32, 37, 48)
    """
    return min(MOST, max(FEWEST, n // SHARE))


def canonical(data: Data) -> Tensor:
    """Return the order of the samples by the hash of image and label, (n,) indices."""
    flat = data.x.contiguous().flatten(1)
    digests = [
        hashlib.sha256(row.numpy().tobytes() + str(label).encode()).digest()
        for row, label in zip(flat.cpu(), data.y.tolist(), strict=True)
    ]
    return torch.tensor(sorted(range(len(data)), key=digests.__getitem__), dtype=torch.int64)


def some(run: Run, among: Tensor) -> Data | None:
    """Return the first samples of the mask (n,) bool in canonical order, before the attack; None
    where there are none.
    """
    order = canonical(run.clean)
    count = size(len(order)) if run.draws == 1 else FEWEST // 2  # an answer takes many passes
    chosen = order[among[order]][:count]
    return run.clean[chosen] if len(chosen) else None

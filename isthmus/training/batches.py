"""The order in which samples are drawn."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=4)
def _epoch(n: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def batch_indices(
    n: int, batch_size: int, step: int, seed: int, rank: int = 0, world: int = 1
) -> Tensor:
    """Return which of n samples make up a rank's batch: a slice of the endless repetition of
    reshuffled epochs.

    A function of its arguments alone, so a resumed run needs no state; ranks take neighboring
    slices.

    >>> two_epochs = [batch_indices(5, 2, step, seed=0) for step in range(5)]
    >>> torch.cat(two_epochs).bincount().tolist()
    [2, 2, 2, 2, 2]
    """
    begin = (step * world + rank) * batch_size
    end = begin + batch_size
    parts: list[Tensor] = []
    while begin < end:
        offset = begin % n
        parts.append(_epoch(n, seed, begin // n)[offset : offset + end - begin])
        begin += len(parts[-1])
    return torch.cat(parts)

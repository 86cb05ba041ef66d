"""Data that a small network learns in a few steps, for compression."""

import torch

from isthmus import Data


def samples(n=80, seed=0):
    """Images of 6x6 in three classes: which of three rows is bright."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = 0.5 * torch.rand(n, 1, 6, 6, generator=generator)
    x[torch.arange(n), 0, 2 * y] += 0.5
    return Data(x, y, 3)

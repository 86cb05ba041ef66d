"""Random crops of images continued by their mirror images: what `isthmus.Augment` does, without its
black borders.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def reflected(at: Tensor, length: int) -> Tensor:
    """Return places on a line of pixels for places up to `length` - 1 beyond its ends.

    >>> reflected(torch.arange(-2, 6), 4).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    return (length - 1) - ((length - 1) - at.abs()).abs()


@dataclass(frozen=True)
class ReflectedCrops:
    """Random shift by up to `pad` pixels, where mirrored pixels move in, and random horizontal
    flip, for any type.
    """

    pad: int = 2
    flip: bool = True

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (n, c, h, w), each sample moved on its own, by draws from the global
        generator.
        """
        n, _, height, width = x.shape
        top, left = torch.randint(-self.pad, self.pad + 1, (2, n, 1))
        rows = reflected(top + torch.arange(height), height)
        columns = reflected(left + torch.arange(width), width)
        if self.flip:
            columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
        moved = x.permute(0, 2, 3, 1)[
            torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]
        ]
        return moved.permute(0, 3, 1, 2)

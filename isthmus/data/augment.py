"""Random shifts and mirror images, drawn anew for every batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.types import BadInput


@dataclass(frozen=True)
class Augment:
    """Random shift by up to `pad` pixels (zeros move in) and random horizontal flip, for whole
    batches of any type.

    Raises BadInput where pad is negative, and, when called, where a shift would leave nothing of
    the image.
    """

    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise BadInput(
                f"pad = {self.pad}",
                expected="0 or more pixels",
                fix="pass pad=4, or 0 for no shift",
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Return x (n, c, h, w), each sample moved by its own draw of the global generator."""
        n, _, h, w = x.shape
        if self.pad >= min(h, w):
            raise BadInput(
                f"pad = {self.pad} for {h}x{w} images",
                expected="less than their size",
                fix="lower pad",
            )
        top, left = torch.randint(0, 2 * self.pad + 1, (2, n, 1))
        rows, columns = top + torch.arange(h), left + torch.arange(w)
        if self.flip:
            columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
        padded = F.pad(x, (self.pad,) * 4).permute(0, 2, 3, 1)
        moved = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)

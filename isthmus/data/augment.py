"""Random shifts and mirror images, drawn anew for every batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.types import BadInput

Border = Literal["zeros", "reflect"]
"""What moves in at the border of a shifted image: zeros, or the image's own mirror image."""


@dataclass(frozen=True)
class Augment:
    """Random shift by up to `pad` pixels and random horizontal flip, for whole batches of any type.

    `border` says what moves in: zeros, or the mirror image of what is beside them. Raises BadInput
    where pad is negative or the border unknown, and, when called, where a shift would leave nothing
    of the image.
    """

    pad: int = 4
    flip: bool = True
    border: Border = "zeros"

    def __post_init__(self) -> None:
        if self.border not in get_args(Border):
            raise BadInput(
                f"border = {self.border!r}",
                expected=" or ".join(get_args(Border)),
                fix="pass one of these",
            )
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
                fix=f"pass pad={min(h, w) // 8}",
            )
        down, right = torch.randint(-self.pad, self.pad + 1, (2, n, 1))
        rows, columns = down + torch.arange(h), right + torch.arange(w)
        if self.flip:
            columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
        if self.border == "reflect":
            rows, columns, source = _mirrored(rows, h), _mirrored(columns, w), x
        else:
            rows, columns, source = rows + self.pad, columns + self.pad, F.pad(x, (self.pad,) * 4)
        samples = torch.arange(n)[:, None, None]
        moved = source.permute(0, 2, 3, 1)[samples, rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2)

    @property
    def run_identity(self) -> str:
        """What runs are recognized by: without a border of zeros, as before there was another."""
        border = "" if self.border == "zeros" else f", border={self.border!r}"
        return f"{type(self).__name__}(pad={self.pad}, flip={self.flip}{border})"


def check_augmentation(augment: Callable[[Tensor], Tensor] | None, images: Tensor) -> None:
    """Move two images, so that what the augmentation refuses is refused before any work is done."""
    if augment is not None:
        with torch.random.fork_rng():
            augment(images[:2])


def _mirrored(at: Tensor, length: int) -> Tensor:
    """Return places on a line of pixels for places up to `length` - 1 beyond its ends.

    >>> _mirrored(torch.arange(-2, 6), 4).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    return (length - 1) - ((length - 1) - at.abs()).abs()

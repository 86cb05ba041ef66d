"""A small solid square, the first backdoor trigger.

Source: Gu et al., BadNets, 2017; Zhao et al., ICLR 2020, section 3.2 (3x3, one pixel off the
corner).

Where we depart: the patch acts on [0, 1], before any normalization.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.attacks.triggers.checks import check_number, is_whole
from isthmus.types import BadInput


@dataclass(frozen=True)
class Patch:
    """A solid square of `size` pixels; by default 3x3 white, one pixel free at the bottom and right
    border.

    `at` is its (row, column), negative from the far border; `value` one number in [0, 1] or one per
    channel. Raises BadInput where one of them is something else.

    >>> Patch()(torch.zeros(1, 1, 32, 32))[0, 0].nonzero()[[0, -1]].tolist()
    [[28, 28], [30, 30]]
    """

    size: int = 3
    at: tuple[int, int] | None = None
    value: float | Sequence[float] = 1.0

    def __post_init__(self) -> None:
        if not is_whole(self.size) or self.size < 1:
            raise BadInput(
                f"a {self.size}x{self.size} patch",
                expected="a size of 1 or more pixels",
                fix="pass size=3",
            )
        if self.at is not None:
            if (
                not isinstance(self.at, (tuple, list))
                or len(self.at) != 2
                or not all(map(is_whole, self.at))
            ):
                raise BadInput(
                    f"a patch at {self.at!r}",
                    expected="(row, column), whole numbers",
                    fix="pass at=(0, 0), or leave it out",
                )
            object.__setattr__(self, "at", tuple(self.at))
        several = isinstance(self.value, (tuple, list))
        for value in self.value if several else (self.value,):  # type: ignore[union-attr]
            check_number("value", value, 0, 1)
        if several:
            object.__setattr__(self, "value", tuple(self.value))  # type: ignore[arg-type]

    def __call__(self, x: Tensor) -> Tensor:
        """Return x with the patch. Raises BadInput where it leaves the image or has the wrong
        number of channels.
        """
        height, width = x.shape[-2:]
        at = self.at or (-self.size - 1, -self.size - 1)
        row, column = (
            i + length if i < 0 else i for i, length in zip(at, (height, width), strict=True)
        )
        if min(row, column) < 0 or row + self.size > height or column + self.size > width:
            raise BadInput(
                f"a {self.size}x{self.size} patch at {at}",
                expected=f"a patch inside the {height}x{width} image",
                fix="pass a smaller size, or another at",
            )
        value = torch.as_tensor(self.value, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)
        if len(value) not in (1, x.shape[1]):
            raise BadInput(
                f"patch value {self.value}",
                expected=f"1 or {x.shape[1]} numbers",
                fix="pass one number for all channels",
            )
        x = x.clone()
        x[..., row : row + self.size, column : column + self.size] = value
        return x

"""The algebra of labels: which channel an element stems from, and which of its elements it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Key = tuple[str, int | None]
"""A parameter or buffer by name, and one of its axes; None stands for all of them, flattened."""


Blocks = dict[Key, tuple[Tensor, Tensor]]
"""For a key, which atom and which tag each index has, where indices are to move together."""


@dataclass(frozen=True)
class Label:
    """Of each element of a tensor, its channel (-1: none) and which of the channel's elements it
    is; both int64.
    """

    atom: Tensor
    tag: Tensor
    from_input: bool = True

    def moved(self, function: Callable[[Tensor], Tensor]) -> Label:
        """Return the label after one and the same change of layout to both of its tensors."""
        return Label(function(self.atom), function(self.tag), self.from_input)


def mix(*parts: Tensor | int) -> Tensor:
    """Return a hash of whole numbers, elementwise and broadcast, int64; the order of the parts
    matters.
    """
    value = torch.tensor(0x5851F42D4C957F2D)
    for part in parts:
        value = (value ^ part) * 0x2545F4914F6CDD1D
        value = (value ^ (value >> 31)) * 0x369DEA0F31A53F85
        value = value ^ (value >> 29)
    return value


def in_order(tag: Tensor) -> Tensor:
    """Hash the last axis as a sequence."""
    return mix(tag, torch.arange(tag.shape[-1])).sum(-1)


def spread(vector: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """Lay a vector along one axis of a shape."""
    return vector.view([-1 if i == axis else 1 for i in range(len(shape))]).expand(tuple(shape))

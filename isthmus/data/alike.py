"""Images that come one after another as one tensor: of one size, gray where all of them are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from torch import Tensor

from isthmus.data.mapped import gathered
from isthmus.types import BadInput

_ROWS = 1000  # gray images that are put in color at once


def in_one(parts: Iterable[Tensor]) -> Tensor:
    """Return parts (n, c, h, w) one after another as one tensor, as `gathered` does: gray where all
    of them are, else in color, as the images of a folder are read.

    Raises BadInput where there is none, ValueError where one has another size than those before it,
    or bytes follow floats.

    >>> import torch
    >>> in_one([torch.zeros(1, 1, 2, 2), torch.ones(1, 3, 2, 2)]).mean((2, 3)).tolist()
    [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    remaining = _of_one_size(parts)
    first = next(remaining, None)
    if first is None:
        raise BadInput(
            "an empty data set", expected="pairs (x, y)", fix="check the path or the split"
        )
    colored = [] if _is_gray(first) else [first]
    if not colored:
        gray = gathered(_gray(chain([first], remaining), colored))
        if not colored:
            return gray
        return gathered(
            in_color(part, colored[0].shape[1])
            for part in chain(gray.split(_ROWS), colored, remaining)
        )
    return gathered(in_color(part, first.shape[1]) for part in chain(colored, remaining))


def in_color(images: Tensor, channels: int) -> Tensor:
    """Return gray images (n, 1, h, w) with as many channels, all of them alike; others as they are.

    >>> import torch
    >>> in_color(torch.zeros(2, 1, 4, 4), 3).shape
    torch.Size([2, 3, 4, 4])
    """
    return images.expand(-1, channels, -1, -1) if _is_gray(images) else images


def _is_gray(part: Tensor) -> bool:
    return part.ndim == 4 and part.shape[1] == 1


def _gray(parts: Iterable[Tensor], colored: list[Tensor]) -> Iterator[Tensor]:
    """Yield parts up to the first in color, which is put into the list."""
    for part in parts:
        if not _is_gray(part):
            colored.append(part)
            return
        yield part


def _of_one_size(parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the parts. Raises ValueError where one has another size than those before it, or is of
    bytes after floats; gray images may stand among those in color.
    """
    shape: tuple[int, ...] = ()
    kind, count = "", 0
    for part in parts:
        own, own_kind = tuple(part.shape[1:]), "floats" if part.is_floating_point() else "bytes"
        shape, kind = shape or own, kind or own_kind
        if own_kind != kind:
            raise ValueError(f"sample {count} of type {part.dtype} after {kind}")
        if own != shape and not _differ_in_color(own, shape):
            raise ValueError(f"sample {count} of shape {own} after {shape}")
        shape = max(own, shape)  # that in color
        count += len(part)
        yield part


def _differ_in_color(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether two shapes (c, h, w) are those of a gray image and one in color."""
    same_size = len(shape) == 3 and shape[1:] == other[1:]
    return same_size and 1 in (shape[0], other[0])

"""Tensors packed into bytes and back, to the last bit: masked values, and levels of a grid."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from isthmus.types import BadInput, Params

_TRITS = 5  # of three levels, in a byte: 3^5 = 243


def pack_mask(value: Tensor, mask: Tensor) -> Params:
    """Return the values that are on, and their positions by whichever takes fewer bytes.

    Positions are a bit for each value, or a byte for each step from one to the next.
    """
    on = mask.flatten().cpu()
    bits = torch.from_numpy(np.packbits(on.numpy()))
    gaps = _gaps(on)
    parts = {"values": value.detach().cpu().flatten()[on].clone()}
    parts |= {"gaps": gaps} if len(gaps) < len(bits) else {"bits": bits}
    return parts


def unpack_mask(parts: Params, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return values, 0 off the mask, and mask. Raises BadInput where the parts do not fit."""
    size = int(np.prod(shape))
    if "bits" in parts:
        bits = np.unpackbits(parts["bits"].numpy())[:size]
        on = torch.from_numpy(bits.astype(bool))
    else:
        on = _from_gaps(parts["gaps"], size)
    values = parts["values"]
    if len(on) != size or int(on.sum()) != len(values):
        raise _damaged(f"{len(values)} values at {int(on.sum())} of {len(on)} places")
    flat = torch.zeros(size, dtype=values.dtype)
    flat[on] = values
    return flat.view(shape), on.view(shape)


def _gaps(on: Tensor) -> Tensor:
    """Return the steps between places that are on, as bytes; 255 stands for 255 and goes on."""
    places = on.nonzero()[:, 0].numpy()
    steps = np.diff(places, prepend=-1)
    longs = (steps - 1) // 255
    ends = np.cumsum(longs + 1)
    gaps = np.full(int(ends[-1]) if len(ends) else 0, 255, dtype=np.uint8)
    gaps[ends - 1] = (steps - 1) % 255
    return torch.from_numpy(gaps)


def _from_gaps(gaps: Tensor, size: int) -> Tensor:
    """Return the places of steps."""
    numbers = gaps.numpy().astype(np.int64)
    places = np.cumsum(np.where(numbers == 255, 255, numbers + 1)) - 1
    places = places[numbers != 255]
    if len(places) and places[-1] >= size:
        raise _damaged(f"place {places[-1]} of {size}")
    on = torch.zeros(size, dtype=torch.bool)
    on[torch.from_numpy(places)] = True
    return on


def pack_codes(codes: Tensor, levels: int) -> Tensor:
    """Return whole numbers below `levels` as bytes: 8, 5, 4, 2 or 1 of them in each.

    >>> pack_codes(torch.tensor([1, 0, 1, 1]), 2).tolist()
    [13]
    """
    base, count = _base(levels)
    flat = codes.flatten().cpu().numpy().astype(np.int64)
    padded = np.pad(flat, (0, -len(flat) % count)).reshape(-1, count)
    powers = base ** np.arange(count)
    return torch.from_numpy((padded * powers).sum(1).astype(np.uint8))


def unpack_codes(packed: Tensor, levels: int, shape: tuple[int, ...]) -> Tensor:
    """Return the numbers, int64. Raises BadInput where they are too few, or too large.

    >>> unpack_codes(torch.tensor([13], dtype=torch.uint8), 2, (4,)).tolist()
    [1, 0, 1, 1]
    """
    base, count = _base(levels)
    size = int(np.prod(shape))
    numbers = packed.numpy().astype(np.int64)[:, None] // base ** np.arange(count) % base
    flat = numbers.reshape(-1)[:size]
    if len(flat) != size or (size and flat.max() >= levels):
        raise _damaged(f"{len(flat)} codes of {size}")
    return torch.from_numpy(flat).view(shape)


def _base(levels: int) -> tuple[int, int]:
    """Return the base in which codes are written, and how many of them a byte holds."""
    if levels == 3:
        return 3, _TRITS
    bits = next(bits for bits in (1, 2, 4, 8) if levels <= 2**bits)
    return 2**bits, 8 // bits


def _damaged(what: str) -> BadInput:
    return BadInput(what, expected="a packed tensor", fix="the file is damaged: write it again")

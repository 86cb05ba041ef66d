"""Tensors packed into bytes and back, to the last bit: masked values, and levels of a grid."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from isthmus.types import BadInput, Params

_TRITS = 5  # of three levels, in a byte: 3^5 = 243
_NAMED = 150  # bytes, about, in which a file names one more part


def pack_mask(value: Tensor, mask: Tensor) -> Params:
    """Return the values that are on, and their places."""
    on = mask.flatten().cpu()
    return {"values": value.detach().cpu().flatten()[on].clone(), **_pack_places(on)}


def pack_zeros(value: Tensor) -> Params | None:
    """Return the values that are not 0, and their places; None where that takes no fewer bytes."""
    if not value.is_floating_point():
        return None
    on = (value != 0) | value.signbit()  # -0 is another number to a hash
    parts = pack_mask(value, on)
    return parts if _size(parts) + 2 * _NAMED < value.nbytes else None


def unpack_mask(parts: Params, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return values, 0 off the mask, and mask. Raises BadInput where the parts do not fit.

    Memory is taken for the shape only where it is: a shape from outside is to be checked before.
    """
    size = math.prod(shape)
    values = parts.get("values")
    if values is None or len(parts) != 2:
        raise _damaged(f"a mask of {', '.join(sorted(parts)) or 'no parts'}")
    if values.ndim != 1 or not values.is_floating_point():
        raise _damaged(f"masked values of shape {tuple(values.shape)} and type {values.dtype}")
    on = _unpack_places(parts, size)
    if int(on.sum()) != len(values):
        raise _damaged(f"{len(values)} values at {int(on.sum())} of {size} places")
    return _placed(values, on).view(shape), on.view(shape)


def _placed(values: Tensor, on: Tensor) -> Tensor:
    """Return values at the places that are on, and 0 at all others, in a row."""
    flat = torch.zeros(len(on), dtype=values.dtype)
    flat[on] = values
    return flat


def _pack_places(on: Tensor) -> Params:
    """Return which places of a row are on, by whichever takes fewer bytes: a bit for each place, or
    a byte for each step from one that is on to the next.
    """
    bits = torch.from_numpy(np.packbits(on.numpy()))
    gaps = _gaps(on)
    return {"gaps": gaps} if len(gaps) < len(bits) else {"bits": bits}


def _unpack_places(parts: Params, size: int) -> Tensor:
    """Return which of `size` places are on. Raises BadInput where the parts do not say it."""
    if "bits" in parts:
        bits = np.unpackbits(_bytes(parts["bits"], -(-size // 8)))[:size]
        return torch.from_numpy(bits.astype(bool))
    if "gaps" in parts:
        return _from_gaps(_bytes(parts["gaps"]), size)
    raise _damaged(f"no places among {', '.join(sorted(parts))}")


def _bytes(part: Tensor, count: int | None = None) -> np.ndarray:
    """Return a row of bytes, `count` of them where it is given. Raises BadInput for all else."""
    if part.dtype != torch.uint8 or part.ndim != 1 or count not in (None, len(part)):
        wanted = "bytes" if count is None else f"{count} bytes"
        raise _damaged(f"{tuple(part.shape)} of {part.dtype} for a row of {wanted}")
    return part.numpy()


def _gaps(on: Tensor) -> Tensor:
    """Return the steps between places that are on, as bytes; 255 stands for 255 and goes on."""
    places = on.nonzero()[:, 0].numpy()
    steps = np.diff(places, prepend=-1)
    longs = (steps - 1) // 255
    ends = np.cumsum(longs + 1)
    gaps = np.full(int(ends[-1]) if len(ends) else 0, 255, dtype=np.uint8)
    gaps[ends - 1] = (steps - 1) % 255
    return torch.from_numpy(gaps)


def _from_gaps(gaps: np.ndarray, size: int) -> Tensor:
    """Return the places of steps."""
    numbers = gaps.astype(np.int64)
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
    size = math.prod(shape)
    numbers = _bytes(packed, -(-size // count)).astype(np.int64)[:, None]
    flat = (numbers // base ** np.arange(count) % base).reshape(-1)[:size]
    if size and flat.max() >= levels:
        raise _damaged(f"code {flat.max()} of {levels} levels")
    return torch.from_numpy(flat).view(shape)


def pack_grid(levels: Tensor, scale: Tensor, known: Tensor) -> Params:
    """Return a tensor on a grid, from its levels and their scale (): a code for each level, its
    number among the `known` ones, which are in order. Where that takes fewer bytes, as after
    pruning, zeros have no code: what is packed are the places of the others, and their codes.
    """
    flat = levels.flatten().cpu().to(known)
    on, others = flat != 0, known[known != 0]
    dense = {"codes": _codes(flat, known)}
    sparse = {"codes": _codes(flat[on], others), **_pack_places(on)}
    shorter = _size(sparse) + _NAMED < _size(dense)
    return {**(sparse if shorter else dense), "scale": scale.cpu()}


def _codes(levels: Tensor, known: Tensor) -> Tensor:
    return pack_codes(torch.searchsorted(known, levels), len(known))


def _size(parts: Params) -> int:
    """Return how many bytes parts take."""
    return sum(part.nbytes for part in parts.values())


def unpack_grid(parts: Params, known: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the level of each code times the scale, and 0 where zeros have no code.

    Raises BadInput where the parts do not fit.
    """
    places = {name: part for name, part in parts.items() if name not in ("codes", "scale")}
    if len(parts) - len(places) != 2 or len(places) > 1:
        raise _damaged(f"a tensor on a grid of {', '.join(sorted(parts)) or 'no parts'}")
    codes, scale = parts["codes"], parts["scale"]
    if scale.ndim or scale.dtype not in (torch.float32, torch.float64):
        raise _damaged(f"a scale of shape {tuple(scale.shape)} and type {scale.dtype}")
    if not places:
        return known.to(scale)[unpack_codes(codes, len(known), shape)] * scale
    on, others = _unpack_places(places, math.prod(shape)), known[known != 0]
    coded = unpack_codes(codes, len(others), (int(on.sum()),))
    return _placed(others.to(scale)[coded] * scale, on).view(shape)


def _base(levels: int) -> tuple[int, int]:
    """Return the base in which codes are written, and how many of them a byte holds."""
    if levels == 3:
        return 3, _TRITS
    bits = next(bits for bits in (1, 2, 4, 8) if levels <= 2**bits)
    return 2**bits, 8 // bits


def _damaged(what: str) -> BadInput:
    return BadInput(what, expected="a packed tensor", fix="the file is damaged: write it again")

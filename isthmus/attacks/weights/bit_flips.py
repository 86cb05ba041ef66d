"""Random bit flips in the memory that holds a network's weights: faults, not attacks.

Source: the usual memory-fault model (Reagen et al., Ares, DAC 2018): every bit is as likely to flip
as any other. The int8 format is symmetric with one scale a tensor, max |w| / 127, as in Rakin et
al., Bit-Flip Attack, ICCV 2019.

Where we depart: an exact number of different bits flips, in place of a coin toss for each; scales,
buffers and biases of other formats than the weights' are not modeled. The network that comes out
holds the decoded weights in the types that it had, so it is saved, loaded and repaired as any
other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isthmus.models.view import copied, parameters_at
from isthmus.types import BadInput, Params

Format = Literal["float32", "bf16", "int8"]


_TYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}


def encoded(w: Tensor, format: Format) -> tuple[Tensor, float]:
    """Return a weight as memory holds it, of the same shape, and the scale that it is to be
    multiplied by.
    """
    if format != "int8":
        return w.detach().to(_TYPES[format]).contiguous(), 1.0
    scale = float(w.detach().abs().amax()) / 127 or 1.0
    return (w.detach() / scale).round().to(torch.int8).contiguous(), scale


def flipped(stored: Tensor, bits: Sequence[int]) -> Tensor:
    """Return stored numbers with the given different bits flipped; bit k is bit k % 8 of byte k //
    8, lowest first.

    >>> flipped(torch.tensor([1.0, 2.0]), [31, 32 + 31])  # the signs
    tensor([-1., -2.])
    """
    places = torch.tensor(bits, dtype=torch.int64)
    memory = stored.cpu().reshape(-1).view(torch.uint8)
    masks = torch.zeros_like(memory).index_add_(0, places // 8, (1 << places % 8).to(torch.uint8))
    return (memory ^ masks).view(stored.dtype).view(stored.shape).to(stored.device)


@dataclass(frozen=True, eq=False)
class Faulty:
    """A network after faults: how many bits flipped of how many, and in what state the weights are.

    `changed` weights of `size` differ from the stored ones without faults, `clamped` were brought
    back into range; `largest` is the largest magnitude left.
    """

    network: nn.Module
    flips: int
    bits: int
    changed: int
    size: int
    clamped: int
    largest: float

    def record(self) -> dict[str, Any]:
        """Return everything but the network, as plain JSON."""
        return {name: value for name, value in vars(self).items() if name != "network"}


@dataclass(frozen=True)
class BitFlips:
    """Flip `flips` random bits, or a share `rate` of all (rounded), of the weights as the format
    stores them.

    `layers` names the layers or parameters that suffer, by default all floating-point parameters.
    With `clamp`, what leaves its tensor's range without faults is brought back to the ends of it,
    and NaN to 0, as hardware that checks ranges does. Without, finite weights stay as they are,
    however large, and weights that are NaN or infinite are refused: no checkpoint holds them, and a
    network with one answers nothing. Over many seeds count such refusals as lost networks; to leave
    them out would flatter the rest.
    """

    flips: int | None = None
    rate: float | None = None
    format: Format = "float32"
    layers: Sequence[str] = ()
    clamp: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.format not in _TYPES:
            raise BadInput(
                f"format {self.format!r}",
                expected="float32, bf16 or int8",
                fix="pass format='float32'",
            )
        if (
            (self.flips is None) == (self.rate is None)
            or (self.flips or 0) < 0
            or not 0 <= (self.rate or 0) <= 1
        ):
            raise BadInput(
                f"{self.flips} flips and a rate of {self.rate}",
                expected="one of them, a count or a share in [0, 1]",
                fix="pass flips=10, or rate=1e-6",
            )

    def __call__(self, network: nn.Module) -> Faulty:
        """Return a copy with the faults. Raises BadInput where weights end NaN or infinite, or bits
        are too few.
        """
        network = copied(network).eval()
        tensors = parameters_at(network, self.layers or [""])
        stored = {name: encoded(p, self.format) for name, p in tensors.items()}
        hit = self._drawn(
            {name: 8 * held.numel() * held.element_size() for name, (held, _) in stored.items()}
        )
        changed = clamped = 0
        for name, (held, scale) in stored.items():
            sound = held.to(torch.float64) * scale
            faulty = flipped(held, hit[name]).to(torch.float64) * scale
            if self.clamp:
                within = faulty.nan_to_num(0.0).clamp(sound.min(), sound.max())
                clamped += int((within != faulty).sum())
                faulty = within
            changed += int((faulty != sound).sum())
            tensors[name].data.copy_(faulty)
        self._check(tensors)
        largest = max(float(p.detach().abs().max()) for p in tensors.values())
        bits = sum(8 * held.numel() * held.element_size() for held, _ in stored.values())
        size = sum(p.numel() for p in tensors.values())
        return Faulty(network, sum(map(len, hit.values())), bits, changed, size, clamped, largest)

    def _drawn(self, sizes: dict[str, int]) -> dict[str, list[int]]:
        """Return which bits of each tensor flip, by name; `sizes` are the bits of each."""
        total = sum(sizes.values())
        count = round(self.rate * total) if self.rate is not None else self.flips or 0
        if count > total:
            raise BadInput(
                f"{count} flips",
                expected=f"{total} at most, as many bits as there are",
                fix=f"pass flips={total} or fewer, or a rate of at most 1",
            )
        drawn = sorted(random.Random(self.seed).sample(range(total), count))
        by_tensor = {}
        begin = 0
        for name, size in sizes.items():
            by_tensor[name] = [bit - begin for bit in drawn if begin <= bit < begin + size]
            begin += size
        return by_tensor

    def _check(self, tensors: Params) -> None:
        odd = sum(int((~torch.isfinite(p)).sum()) for p in tensors.values())
        if odd:
            raise BadInput(
                f"{odd} weights that the flips made NaN or infinite",
                expected="finite weights, the only ones that a checkpoint holds",
                fix="pass clamp, or count this seed as a lost network",
            )

"""A network pruned and rounded, with nothing trained: what accuracy is left, and what becomes of
its backdoor.

A repair may have put a backdoor to sleep that rounding or pruning wakes, and an attacker may have
planted one that sleeps until then (Hong et al., NeurIPS 2021; Tian et al., 2022). Each compression
has a defense's signature, so that `compare` measures them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from isthmus.compression import PostTraining, baked, prune, quantize
from isthmus.data.dataset import Source
from isthmus.types import Defense


@dataclass(frozen=True)
class Pruned:
    """Keep the largest share `density` of all weights; BatchNorm is recalibrated."""

    density: float = 0.1
    gradients: ClassVar[int] = 0

    def __call__(self, network: nn.Module, bonafide: Source) -> nn.Module:
        """Return the pruned copy. Raises BadInput as `prune` does."""
        return baked(prune(network, bonafide, self.density).model)


@dataclass(frozen=True)
class Rounded:
    """Round weights to 8 bits, or all but the first and last layer to 4; BatchNorm is
    recalibrated.
    """

    bits: Literal[4, 8] = 8
    gradients: ClassVar[int] = 0

    def __call__(self, network: nn.Module, bonafide: Source) -> nn.Module:
        """Return the rounded copy. Raises BadInput as `quantize` does."""
        small = quantize(baked(network), bonafide, self.bits, method=PostTraining())
        return baked(small.model)


def compressions() -> dict[str, Defense]:
    """Return what networks are compressed by in a report, by name."""
    return {
        "pruning by 90 %": Pruned(),
        "rounding to 8 bits": Rounded(8),
        "rounding to 4 bits": Rounded(4),
    }

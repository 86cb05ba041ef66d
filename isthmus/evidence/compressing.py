"""A network pruned and rounded, with nothing trained: what accuracy is left, and what becomes of
its backdoor.

A repair may have put a backdoor to sleep that rounding or pruning wakes, and an attacker may have
planted one that sleeps until then (Hong et al., NeurIPS 2021; Tian et al., 2022). Each compression
has a defense's signature, so that `compare` measures them. One that changes much recalibrates
BatchNorm (`isthmus.compression.statistics`), as tools of others always do, so what that does alone
stands beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from isthmus.compression import PostTraining, baked, plain, prune, quantize
from isthmus.data.dataset import Source
from isthmus.models.batchnorm import batchnorm_layers, recalibrate
from isthmus.models.view import copied
from isthmus.types import Defense

RECALIBRATION = "recalibration alone"
"""The control: what comes of this is not the compression's doing."""


@dataclass(frozen=True)
class Recalibrated:
    """Recalibrate BatchNorm and change no weight."""

    gradients: ClassVar[int] = 0

    def __call__(self, network: nn.Module, bonafide: Source) -> nn.Module:
        """Return the recalibrated copy."""
        return recalibrate(copied(network).eval(), bonafide)


@dataclass(frozen=True)
class Pruned:
    """Keep the largest share `density` of all weights; nothing is trained."""

    density: float = 0.1
    gradients: ClassVar[int] = 0

    def __call__(self, network: nn.Module, bonafide: Source) -> nn.Module:
        """Return the pruned copy. Raises BadInput as `prune` does."""
        return baked(prune(network, bonafide, self.density).model)


@dataclass(frozen=True)
class Rounded:
    """Round weights to 8 bits, or all but the first and last layer to 4; nothing is trained."""

    bits: Literal[4, 8] = 8
    gradients: ClassVar[int] = 0

    def __call__(self, network: nn.Module, bonafide: Source) -> nn.Module:
        """Return the rounded copy. Raises BadInput as `quantize` does."""
        small = quantize(plain(network), bonafide, self.bits, method=PostTraining())
        return baked(small.model)


def compressions() -> dict[str, Defense]:
    """Return the ways that networks are compressed by, by name."""
    return {
        "pruning by 90 %": Pruned(),
        "rounding to 8 bits": Rounded(8),
        "rounding to 4 bits": Rounded(4),
    }


def with_control(network: nn.Module) -> dict[str, Defense]:
    """Return the compressions, after the control where the network has BatchNorm."""
    control: dict[str, Defense] = {RECALIBRATION: Recalibrated()}
    return (control if batchnorm_layers(network) else {}) | compressions()

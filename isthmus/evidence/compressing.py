"""A network pruned and rounded, with nothing trained: what accuracy is left, and what becomes of
its backdoor.

A repair may have put a backdoor to sleep that rounding or pruning wakes, and an attacker may have
planted one that sleeps until then (Hong et al., NeurIPS 2021; Tian et al., 2022). Each compression
has a defense's signature, so that `compare` measures them. One that changes much recalibrates
BatchNorm (`isthmus.compression.statistics`), as tools of others always do, so what that does alone
stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from isthmus.compression import PostTraining, baked, plain, prune, quantize
from isthmus.data.dataset import Source
from isthmus.evidence.record import Value
from isthmus.metrics.names import ACCURACY, ATTACK_SUCCESS
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


def woken(
    whole: Mapping[str, Value],
    compressed: Mapping[str, Mapping[str, Value]],
    accuracy: str = ACCURACY,
) -> tuple[str, ...]:
    """Return the names of the compressions that wake a backdoor in a network.

    Attack success after it lies above that of the `whole` network, their intervals apart, and above
    that after recalibration alone, where this is among the `compressed`. And the accuracy is half
    of the whole network's or more: one that gives a single answer to everything may seem to obey
    the trigger. All are measures by name; what is not known, or not finite, wakes nothing.
    """
    control = compressed.get(RECALIBRATION, whole)
    return tuple(
        name
        for name, small in compressed.items()
        if _lies_above(small, whole)
        and (name == RECALIBRATION or _lies_above(small, control))
        and _keeps_half(small, whole, accuracy)
    )


def _lies_above(small: Mapping[str, Value], control: Mapping[str, Value]) -> bool:
    raised, usual = small.get(ATTACK_SUCCESS), control.get(ATTACK_SUCCESS)
    if raised is None or usual is None or raised.low is None or usual.high is None:
        return False
    return raised.low > usual.high


def _keeps_half(small: Mapping[str, Value], whole: Mapping[str, Value], accuracy: str) -> bool:
    left, had = small.get(accuracy), whole.get(accuracy)
    if left is None or had is None or left.value is None or had.value is None:
        return False
    return left.value >= had.value / 2


def with_control(network: nn.Module) -> dict[str, Defense]:
    """Return the compressions, after the control where the network has BatchNorm."""
    control: dict[str, Defense] = {RECALIBRATION: Recalibrated()}
    return (control if batchnorm_layers(network) else {}) | compressions()

"""Tensors of a network that are computed from others at each pass: masked, on a grid, normed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import nn
from torch.nn.utils import parametrize


@dataclass(frozen=True)
class Parametrized:
    """A tensor that torch parametrizes: `leaf` of the submodule `part`, which is at `path`.

    `maps` are its parametrizations, in the order in which they are applied.
    """

    path: str
    part: nn.Module
    leaf: str
    maps: tuple[nn.Module, ...]

    @property
    def name(self) -> str:
        """The name that the tensor has without its parametrizations."""
        return f"{self.path}.{self.leaf}" if self.path else self.leaf

    @property
    def original(self) -> str:
        """The name within `part` of the parameter behind it, where there is one alone."""
        return f"parametrizations.{self.leaf}.original"


def parametrized_in(model: nn.Module) -> Iterator[Parametrized]:
    """Yield the parametrized tensors of a network, in its order; a module at two places once.

    >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    >>> [each.name for each in parametrized_in(nn.Sequential(layer))]
    ['0.weight']
    """
    for path, part in model.named_modules():
        if parametrize.is_parametrized(part):
            for leaf, maps in cast(nn.ModuleDict, part.parametrizations).items():
                yield Parametrized(path, part, leaf, tuple(cast(nn.ModuleList, maps)))

"""The contract of a score: fitted to features of trusted data, then one number for each input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from isthmus.types import BadInput, Params

SOME = 500
"""How many reference rows tell what a typical score is."""


@dataclass(frozen=True, eq=False)
class Score(ABC):
    """Distance of features to those of the reference: `(*features) -> (n,)` float64, larger =
    farther.

    Features are (n, d) float, one tensor for each layer that the score reads; the score is
    differentiable in them. Fields are tensors and integers: they are the whole state.
    """

    @classmethod
    @abstractmethod
    def fit(cls, features: tuple[Tensor, ...], labels: Tensor, neighbors: int) -> Self:
        """Return the score of the reference features (n, d) with labels (n,) int64."""

    @abstractmethod
    def __call__(self, *features: Tensor) -> Tensor:
        """Return the scores, (n,)."""

    @classmethod
    def inputs(cls, layers: int) -> list[tuple[int, ...]]:
        """Return which of several layers each of the scores reads: by default one score a layer."""
        return [(layer,) for layer in range(layers)]

    @torch.no_grad()
    def typical(self, features: tuple[Tensor, ...]) -> float:
        """Return the median score of the first reference features."""
        return float(self(*(layer[:SOME] for layer in features)).median())

    def state(self) -> Params:
        """Return the fields as tensors by name."""
        return {field.name: torch.as_tensor(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_state(cls, state: Params) -> Self:
        """Return the score with these fields. Raises BadInput where one is missing."""
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in state]:
            raise BadInput(
                f"a detector without {', '.join(missing)}",
                expected="a file that ManifoldDetector.save wrote",
                fix="fit and save it again",
            )
        values = {name: state[name] for name in names}
        whole = {
            name: int(value) if value.ndim == 0 and not value.is_floating_point() else value
            for name, value in values.items()
        }
        return cls(**whole)

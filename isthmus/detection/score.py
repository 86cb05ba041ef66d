"""The contract of a score: fitted to features of trusted data, then one number for each input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import torch
from torch import Tensor

from isthmus.types import BadInput, Params

SOME = 500
"""How many reference rows tell what a typical score is."""

WIDEST = 8192
"""The largest number of features whose products are summed: the sums take 512 MiB."""


@dataclass(frozen=True, eq=False)
class Score(ABC):
    """Distance of features to those of the reference: `(*features) -> (n,)` float64, larger =
    farther.

    Features are (n, d) float, one tensor for each layer that the score reads; the score is
    differentiable in them. Fields are tensors and integers: they are the whole state.

    `dimensions` says the shape of each tensor by letters: the same letter is the same size, and
    `reads` are the letters of the features, one for each layer. `positive` are fields that are
    divided by.
    """

    dimensions: ClassVar[dict[str, str]] = {}
    reads: ClassVar[str] = "d"
    positive: ClassVar[tuple[str, ...]] = ()

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
        """Return the score with these fields. Raises BadInput where one is missing, or no state of
        this score.
        """
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in state]:
            raise malformed(f"a detector without {', '.join(missing)}")
        values = {name: state[name] for name in names}
        whole = {
            name: int(value) if value.ndim == 0 and not value.is_floating_point() else value
            for name, value in values.items()
        }
        score = cls(**whole)
        score.check()
        return score

    def check(self) -> None:
        """Raise BadInput where the fields are not finite, or not of the types and shapes of this
        score.
        """
        sizes: dict[str, int] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in self.dimensions:
                if not isinstance(value, int) or value < 0:
                    raise malformed(f"{field.name} that is no count")
                continue
            letters = self.dimensions[field.name].split()
            if not isinstance(value, Tensor) or value.ndim != len(letters) or 0 in value.shape:
                raise malformed(f"{field.name} that is no tensor of {len(letters)} dimensions")
            for letter, size in zip(letters, value.shape, strict=True):
                if sizes.setdefault(letter, size) != size:
                    raise malformed(f"{field.name} of shape {tuple(value.shape)}")
            if value.dtype not in (torch.float32, torch.float64):
                raise malformed(f"{field.name} of type {value.dtype}")
            if not bool(torch.isfinite(value).all()):
                raise malformed(f"{field.name} with numbers that are NaN or infinite")
            if field.name in self.positive and not bool((value > 0).all()):
                raise malformed(f"{field.name} that is not above 0")

    def widths(self) -> tuple[int, ...]:
        """Return how many features each layer has that the score reads."""
        sizes = {
            letter: size
            for name, letters in self.dimensions.items()
            for letter, size in zip(letters.split(), getattr(self, name).shape, strict=True)
        }
        return tuple(sizes[letter] for letter in self.reads)


def malformed(got: str) -> BadInput:
    """Return the refusal of a saved detector that holds something else than one."""
    return BadInput(
        got, expected="a file that ManifoldDetector.save wrote", fix="fit and save it again"
    )


def taken(tensors: Params, name: str) -> Tensor:
    """Return the tensor of that name. Raises BadInput where there is none."""
    if name not in tensors:
        raise malformed(f"a detector without {name}")
    return tensors[name]


def check_width(features: Tensor, score: str) -> None:
    """Raise BadInput where features (n, d) are too many for a score that sums their products."""
    if features.shape[1] > WIDEST:
        raise BadInput(
            f"{features.shape[1]} features of an input",
            expected=f"{WIDEST} or fewer for {score}",
            fix="name a layer with fewer: layer=",
        )

"""The nearest reference rows of an input, and what all scores over neighbors share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from isthmus.detection.index import INDEXES, Search, exact
from isthmus.detection.score import SOME, Score, malformed
from isthmus.types import BadInput

MOST = 2**31
"""More neighbors than any reference has rows."""

_VALUES = 2**22
"""How many values of neighbors are held at once: 32 MiB in float64."""


@dataclass(frozen=True, eq=False)
class NeighborScore(Score):
    """A score of an input and its `neighbors` nearest reference rows (l2).

    `reference` (N, d) float32. A reference row that is scored is its own nearest neighbor.
    """

    reference: Tensor
    neighbors: int

    dimensions: ClassVar[dict[str, str]] = {"reference": "n d"}

    @abstractmethod
    def local(self, x: Tensor, near: Tensor) -> Tensor:
        """Return the scores of x (n, d) among its neighbors near (n, k, d), float64, as (n,)."""

    @classmethod
    def fit(cls, features: tuple[Tensor, ...], labels: Tensor, neighbors: int) -> Self:
        """Return the score. Raises BadInput where there are fewer rows than neighbors."""
        (reference,) = features
        check_neighbors(neighbors, len(reference))
        return cls(reference.float().cpu().contiguous(), neighbors)

    def check(self) -> None:
        """Raise BadInput as `Score.check` does, and where there are fewer rows than neighbors."""
        super().check()
        if self.reference.dtype != torch.float32:  # what the searches compare
            raise malformed(f"reference of type {self.reference.dtype}")
        check_neighbors(self.neighbors, len(self.reference))

    def __call__(self, *features: Tensor) -> Tensor:
        """Return the scores of features (n, d)."""
        (x,) = features
        return self.by_parts(x, self.nearest(x.detach(), self.neighbors), self.local)

    def by_parts(
        self, x: Tensor, index: Tensor, local: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return local(x, neighbors) for the neighbors of that index (n, k), some rows at once."""
        rows = max(1, _VALUES // max(1, index.shape[1] * x.shape[1]))
        reference = self._on(x.device)
        pairs = zip(x.split(rows), index.split(rows), strict=True)
        return torch.cat([local(part.double(), reference[near].double()) for part, near in pairs])

    def nearest(self, x: Tensor, count: int) -> Tensor:
        """Return the indices of the nearest reference rows of x, (n, count), nearest first."""
        return self._search(x, count)

    def others(self, rows: int, count: int) -> Tensor:
        """Return the nearest other reference rows of each of the first `rows`, (rows, count)."""
        index = self.nearest(self.reference[:rows], count + 1)
        itself = index == torch.arange(len(index))[:, None]
        itself[~itself.any(1), -1] = True  # among equal rows it need not be in the list
        return index[~itself].view(len(index), count)

    @torch.no_grad()
    def typical(self, features: tuple[Tensor, ...]) -> float:
        """Return the median score of the first reference rows among the others."""
        return float(self.left_out(SOME).median())

    @torch.no_grad()
    def left_out(self, rows: int) -> Tensor:
        """Return the scores of the first reference rows, each among the other rows."""
        count = min(self.neighbors, len(self.reference) - 1)
        if not count:
            return torch.zeros(1, dtype=torch.float64)
        some = self.reference[:rows]
        return self.by_parts(some, self.others(rows, count), self.local)

    def search_by(self, index: str) -> None:
        """Find neighbors by the index of that name from now on."""
        self.__dict__["_search"] = INDEXES[index](self._on)  # where `cached_property` keeps it

    @torch.no_grad()
    def recall(self) -> float:
        """Return the share of their nearest rows that the first reference rows find."""
        some = self.reference[:SOME]
        found = self._search(some, self.neighbors)
        true = exact(self._on)(some, self.neighbors)
        return float((true[:, :, None] == found[:, None, :]).any(2).double().mean())

    @cached_property
    def _search(self) -> Search:
        return exact(self._on)

    @cached_property
    def _moved(self) -> dict[torch.device, Tensor]:
        return {}

    def _on(self, device: torch.device) -> Tensor:
        if device.type == "cpu":
            return self.reference
        return self._moved.setdefault(device, self.reference.to(device))


def check_count(neighbors: Any) -> int:
    """Return the number of neighbors. Raises BadInput where there are none, or no whole number of
    them, for every score: a detector says how many it has.
    """
    whole = isinstance(neighbors, Integral) and not isinstance(neighbors, bool)
    if not whole or not 1 <= int(neighbors) < MOST:
        raise BadInput(
            f"neighbors = {neighbors!r}",
            expected=f"a whole number from 1 to {MOST - 1:,}",
            fix="pass neighbors=20",
        )
    return int(neighbors)


def check_neighbors(neighbors: int, rows: int) -> None:
    """Raise BadInput where there are fewer reference rows than neighbors, or none of them."""
    if not 1 <= neighbors <= rows:
        raise BadInput(
            f"neighbors = {neighbors!r} for {rows} reference samples",
            expected=f"a whole number from 1 to {rows}",
            fix="ask for fewer neighbors, or give more reference samples",
        )

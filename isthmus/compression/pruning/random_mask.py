"""A random mask: the floor that every other method has to clear."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isthmus.compression.pruning.job import PruningJob
from isthmus.compression.pruning.units import Units, WeightUnits
from isthmus.training.options import require_seed


@dataclass(frozen=True)
class RandomMask:
    """Keep units at random and train them.

    With `rescale`, the weights that stay grow by density^(-1/2), which leaves the variance of each
    layer's output as it was; without it a mask of few weights hardly trains. `seed` is that of the
    draw. Raises BadInput where it is no seed.
    """

    rescale: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require_seed(self.seed)

    @property
    def least_steps(self) -> int:
        """None: the draw is the whole choice."""
        return 0

    def __call__(self, job: PruningJob) -> None:
        """Draw the mask and train."""
        job.units.keep_largest(drawn(job.units, self.seed), job.target)
        if self.rescale:
            rescale(job.units, job.density)
        job.train()


def drawn(units: Units, seed: int) -> dict[str, Tensor]:
    """Return a random score for each unit."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(size, generator=generator) for name, size in units.counts.items()}


@torch.no_grad()
def rescale(units: Units, density: float) -> None:
    """Multiply single weights by density^(-1/2); channels stay as they are."""
    if isinstance(units, WeightUnits):
        for held in units.held.values():
            held.original.mul_(density**-0.5)

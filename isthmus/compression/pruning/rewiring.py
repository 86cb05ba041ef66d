"""Dynamic network rewiring: the network is sparse from the first step, and its connections move.

After each epoch the smallest weights of every layer go, and as many come back where the momentum of
the loss is largest, in the layers with the largest mean momentum. With a loss on clean and attacked
inputs this is DNR (Kundu et al., ASP-DAC 2021), of which only the evaluation is published; the
schedule is that of sparse momentum (Dettmers and Zettlemoyer, 2019).

Where we depart: the number of connections is exact after every epoch, by the method of largest
remainders; the ADMM term, which made no difference in our measurements, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, cos, pi
from typing import Literal

import torch
from torch import Tensor, nn

from isthmus.compression.pruning.job import PruningJob
from isthmus.compression.pruning.random_mask import drawn, rescale
from isthmus.compression.pruning.units import Units
from isthmus.types import BadInput


@dataclass(frozen=True)
class Rewiring:
    """Move connections by momentum while the network trains; see the module.

    `start` is the first mask: random and rescaled, as in the paper, for a network with random
    weights, or the largest weights of a trained one. `rate` is the share of each layer's
    connections that moves after the first epoch; it falls to a hundredth along a cosine. Raises
    BadInput where the rate is not in (0, 1).
    """

    start: Literal["random", "magnitude"] = "random"
    rate: float = 0.5
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise BadInput(f"rate = {self.rate:g}", expected="a share in (0, 1)", fix="pass 0.5")

    def __call__(self, job: PruningJob) -> None:
        """Choose the first mask, and train while connections move."""
        units = job.units
        if self.start == "random":
            units.keep_largest(drawn(units, self.seed), job.target)
            rescale(units, job.density)
        else:
            units.keep_largest(units.magnitudes(), job.target)
        for held in units.held.values():
            held.mask.register_buffer("momentum", torch.zeros_like(held.original))
        counter = torch.zeros((), dtype=torch.int64)
        first = next(iter(units.held.values())).mask
        first.register_buffer("steps", counter)
        job.train(after_step=Rewire(units, job.epoch, job.steps, self.rate, self.momentum))
        del first.steps
        for held in units.held.values():
            held.mask.register_buffer("momentum", None)


@dataclass(frozen=True)
class Rewire:
    """The hook of `Rewiring`; its state is in the buffers of the masks, so that it is resumed."""

    units: Units = field(repr=False)
    epoch: int
    steps: int
    rate: float
    momentum: float

    def __call__(self, module: nn.Module) -> None:
        """Gather momentum, hold the mask, and move connections after each epoch but the last."""
        units = self.units
        for held in units.held.values():
            held.gather(self.momentum)
        units.project()
        counter = next(iter(units.held.values())).mask.get_buffer("steps")
        counter += 1
        done = int(counter)
        if done % self.epoch == 0 and done + self.epoch <= self.steps:
            units.read()
            spent = done / self.steps
            rate = self.rate * (0.01 + 0.99 * (1 + cos(pi * spent)) / 2)
            units.keep(rewired(units.on, units.magnitudes(), units.momenta(), rate))


def rewired(
    on: dict[str, Tensor], sizes: dict[str, Tensor], momenta: dict[str, Tensor], rate: float
) -> dict[str, Tensor]:
    """Return which units are on after `rate` of each layer's smallest are moved; as many as before.

    A layer keeps one unit at least. Freed places count as free.
    """
    kept: dict[str, Tensor] = {}
    removed = 0
    for name, units in on.items():
        count = int(units.sum())
        drop = min(ceil(rate * count), count - 1)
        active = sizes[name].masked_fill(~units, torch.inf)
        kept[name] = units.clone()
        kept[name][active.topk(drop, largest=False).indices] = False
        removed += drop
    shares = [float(momenta[name][units].mean()) for name, units in on.items()]
    free = [int((~units).sum()) for units in kept.values()]
    for (name, units), grown in zip(kept.items(), allotted(removed, shares, free), strict=True):
        idle = momenta[name].masked_fill(units, -1.0)
        units[idle.topk(grown).indices] = True
    return kept


def allotted(total: int, shares: list[float], room: list[int]) -> list[int]:
    """Return whole numbers that sum to `total`, near the shares and within the room of each.

    What has no room is spread over the others. By largest remainders, the earlier one first.

    >>> allotted(10, [1.0, 1.0, 2.0], [10, 10, 3])
    [4, 3, 3]
    """
    given = [0] * len(room)
    while (left := total - sum(given)) > 0:
        open_ = [i for i, size in enumerate(room) if given[i] < size]
        weight = sum(shares[i] for i in open_)
        wanted = {i: left * (shares[i] / weight if weight > 0 else 1 / len(open_)) for i in open_}
        for i, value in wanted.items():
            given[i] += min(int(value), room[i] - given[i])
        rest = total - sum(given)
        ranked = sorted(open_, key=lambda i: (-(wanted[i] % 1), i))
        for i in [i for i in ranked if given[i] < room[i]][: min(rest, len(open_))]:
            given[i] += 1
    return given

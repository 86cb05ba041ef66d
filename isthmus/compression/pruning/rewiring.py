"""Dynamic network rewiring: the network is sparse from the first step, and its connections move.

After each epoch the smallest weights of every layer are removed, and as many regrow where the
momentum of the loss is largest, in the layers with the largest mean momentum. With a loss on clean
and attacked inputs this is DNR (Kundu et al., ASP-DAC 2021), of which only the evaluation is
published; the schedule is that of sparse momentum (Dettmers and Zettlemoyer, 2019).

Where we depart: the number of connections is exact after every epoch, by the method of largest
remainders; in a budget of fewer than two epochs connections move once, halfway; training may begin
densely or from a trained network; and the paper's ADMM term is off unless `pull` is set. Its
multipliers add up what the mask cuts off, which is 0 here, so the term is a squared distance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil, cos, inf, pi
from typing import Literal

import torch
from torch import Tensor, nn

from isthmus.compression.pruning.job import PruningJob, steps_for
from isthmus.compression.pruning.random_mask import drawn, rescale
from isthmus.compression.pruning.units import WeightUnits
from isthmus.training.losses import gradients_per_step
from isthmus.training.options import require_numbers, require_seed
from isthmus.types import BadInput, Loss


@dataclass(frozen=True)
class Rewiring:
    """Move connections by momentum while the network trains; see the module.

    `start` is the first mask: random and rescaled, as in the paper, for a network with random
    weights, or the largest weights of a trained one, which a random mask would throw away. `dense`
    is the share of the budget that is spent before the first mask. `rate` is the share of each
    layer's connections that moves at the beginning of the rest; it falls to a hundredth along a
    cosine, so that after the first of eight epochs it is 0.96 of `rate`. `pull` times half the
    squared distance of the weights from what they were when connections last moved joins the loss.

    For single weights alone: a channel without weights gets no gradient, so none would regrow.
    Connections of frozen weights do not move, since those that regrow would stay 0. Raises BadInput
    where a setting is out of range, or a random mask would follow dense training, which it throws
    away.
    """

    start: Literal["random", "magnitude"] = "random"
    rate: float = 0.5
    momentum: float = 0.9
    seed: int = 0
    dense: float = 0.0
    pull: float = 0.0

    def __post_init__(self) -> None:
        require_seed(self.seed)
        require_numbers(self, "rate", "momentum", "dense", "pull")
        if self.start not in ("random", "magnitude"):
            raise BadInput(
                f"start = {self.start!r}",
                expected="random or magnitude",
                fix='pass start="magnitude" for a network that is trained',
            )
        shares = 0 < self.rate < 1 and 0 <= self.momentum < 1 and 0 <= self.dense < 1
        if not (shares and 0 <= self.pull < inf):
            raise BadInput(
                f"rate = {self.rate:g}, momentum = {self.momentum:g}, dense = {self.dense:g}, "
                f"pull = {self.pull:g}",
                expected="a share in (0, 1), two in [0, 1), and 0 or more",
                fix="pass rate=0.5, and leave the others out",
            )
        if self.dense and self.start == "random":
            raise BadInput(
                f"a random mask after dense training (dense = {self.dense:g})",
                expected="a mask that makes use of it",
                fix='pass start="magnitude"',
            )

    @property
    def least_steps(self) -> int:
        """Enough for connections to move once, before the last step."""
        return steps_for(self.dense, rest=2)

    def __call__(self, job: PruningJob) -> None:
        """Choose the first mask, and train while connections move. Raises BadInput for channels."""
        units = job.weights("rewiring")
        before = round(self.dense * job.steps)
        job.train("dense training", before)
        if self.start == "random":
            units.keep_largest(drawn(units, self.seed), job.target)
            rescale(units, job.density)
        else:
            units.keep_largest(units.magnitudes(), job.target)
        for held in units.held.values():
            held.mask.register_buffer("momentum", torch.zeros_like(held.original))
        if self.pull:
            anchor(units)
        counter = torch.zeros((), dtype=torch.int64)
        first = next(iter(units.held.values())).mask
        first.register_buffer("steps", counter)
        left = job.steps - before
        rewire = Rewire(units, min(job.epoch, left // 2), left, self.rate, self.momentum)
        loss = Pulled(job.loss, self.pull, units) if self.pull else job.loss
        job.train(steps=left, after_step=rewire, loss=loss)
        units.read()
        del first.steps
        for held in units.held.values():
            held.mask.register_buffer("momentum", None)
            held.mask.register_buffer("anchor", None)


def anchor(units: WeightUnits) -> None:
    """Remember the weights as they are, in the buffers of their masks."""
    for held in units.held.values():
        held.mask.register_buffer("anchor", held.original.detach().clone())


@dataclass(frozen=True)
class Pulled:
    """A loss and half of `pull` times the squared distance of the weights from their anchors."""

    loss: Loss
    pull: float
    units: WeightUnits = field(repr=False)

    @property
    def gradients(self) -> int:
        """How many gradients a step takes: those of the loss."""
        return gradients_per_step(self.loss)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the sum."""
        value = self.loss(model, x, y)
        for held in self.units.held.values():
            if held.mask.anchor is not None:
                distance = (held.original - held.mask.anchor).square().sum()
                value = value + self.pull / 2 * distance
        return value


@dataclass(frozen=True)
class Rewire:
    """The hook of `Rewiring`, which moves connections every `period` steps.

    Its state is in the buffers of the masks, so that it is resumed.
    """

    units: WeightUnits = field(repr=False)
    period: int
    steps: int
    rate: float
    momentum: float

    def __call__(self, module: nn.Module) -> None:
        """Gather momentum, hold the mask, and move connections after each period but the last."""
        units = self.units
        for held in units.held.values():
            held.gather(self.momentum)
        units.project()
        counter = next(iter(units.held.values())).mask.get_buffer("steps")
        counter += 1
        done = int(counter)
        if done % self.period == 0 and done + self.period <= self.steps:
            units.read()
            rate = self.rate * remaining(done / self.steps)
            moving = {
                name: units.on[name]
                for name, held in units.held.items()
                if held.original.requires_grad
            }
            after = rewired(moving, units.magnitudes(), units.momenta(), rate)
            units.keep(units.on | after)
            if next(iter(units.held.values())).mask.anchor is not None:
                anchor(units)


def remaining(spent: float) -> float:
    """Return the factor on the rate after a share of the budget, from 1 to a hundredth.

    >>> remaining(0.0), round(remaining(0.5), 3), round(remaining(1.0), 3)
    (1.0, 0.505, 0.01)
    """
    return 0.01 + 0.99 * (1 + cos(pi * spent)) / 2


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

"""Learned scores: what stays is learned on the loss, with the weights as they are.

Source: Sehwag et al., HYDRA, NeurIPS 2020. Each weight has a score, the mask keeps the largest, and
the gradient passes to the scores as if they multiplied the weights. Then the mask is fixed and the
weights are trained.

Where we depart: the largest scores are those of the whole network and not of each layer; they are
the largest with their signs, where HYDRA keeps the largest in size, so a weight whose factor should
be negative is dropped; they start from the sizes of the weights in units of their root mean square;
and Adam trains them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from isthmus.compression.pruning.job import PruningJob, steps_for
from isthmus.compression.pruning.units import WeightUnits, largest
from isthmus.training.options import require_numbers
from isthmus.training.schedules import constant
from isthmus.training.state import Diverged
from isthmus.types import BadInput


@dataclass(frozen=True)
class LearnedScores:
    """Learn scores for `share` of the budget at the learning rate `rate`; then train the weights.

    For single weights alone. While scores are learned no weight trains: a loss that pulls weights,
    such as `channel_lasso`, is refused there. Raises BadInput where the share is not in (0, 1).
    """

    share: float = 0.5
    rate: float = 0.01

    def __post_init__(self) -> None:
        require_numbers(self, "share", "rate")
        if not (0 < self.share < 1 and self.rate > 0):
            raise BadInput(
                f"share = {self.share:g}, rate = {self.rate:g}",
                expected="a share in (0, 1), and a rate above 0",
                fix="pass share=0.5",
            )

    @property
    def least_steps(self) -> int:
        """One for the scores and one for the weights."""
        return steps_for(self.share)

    def __call__(self, job: PruningJob) -> None:
        """Learn the scores, fix the mask, train the weights. Raises BadInput for channels."""
        units = job.weights("learned scores")
        before = round(self.share * job.steps)
        scores = _scored(units)
        flags = [(p, p.requires_grad) for p in job.model.parameters()]
        for p in job.model.parameters():
            p.requires_grad_(any(p is score for score in scores))
        select = Select(units, job.target)
        select(job.model)
        try:
            job.train(
                "learning scores",
                before,
                select,
                optimizer=torch.optim.Adam,
                lr=self.rate,
                schedule=constant,
                weight_decay=0.0,
            )
        except Diverged:
            raise
        except BadInput as refusal:
            raise refusal.within(
                "the part in which scores are learned and no weight trains"
            ) from refusal
        for p, trains in flags:
            p.requires_grad_(trains)
        for held in units.held.values():
            held.mask.scores = None
        units.read()
        units.keep(units.on)
        job.train(steps=job.steps - before)


def _scored(units: WeightUnits) -> list[Tensor]:
    """Give each mask its scores, and return them."""
    originals = [held.original.detach() for held in units.held.values()]
    square = sum(float(w.square().sum()) for w in originals) / sum(w.numel() for w in originals)
    for held in units.held.values():
        start = held.original.detach().abs() / max(square, 1e-24) ** 0.5
        held.mask.scores = nn.Parameter(start)
    return [held.mask.scores for held in units.held.values() if held.mask.scores is not None]


@dataclass(frozen=True)
class Select:
    """The hook that puts the mask on the largest scores after each step; the weights stay."""

    units: WeightUnits = field(repr=False)
    target: int

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        """Set the masks."""
        held = self.units.held
        scores = {
            name: one.mask.scores for name, one in held.items() if one.mask.scores is not None
        }
        for name, on in largest(scores, self.target).items():
            held[name].mask.mask.copy_(on.view(held[name].mask.mask.shape))

"""ULRL: unlearn the clean task to see which output reacts too much, and learn that output anew.

Source: Min, Pham and Sun, Unified Neural Backdoor Removal with Only Few Clean Samples through
Unlearning and Relearning, 2025, and its code. The loss on bonafide samples is maximized; a row of
the head whose weights change far more than those of the others (more than 3.5 robust deviations
above the median, at most two rows) is drawn anew in the network as received, which is then
fine-tuned on cross-entropy plus alpha times the cosine between those rows and what they were.

Where we depart: the budget is that of every other defense, half for each phase (the code has 20
epochs each); the loss that is maximized is capped at four times that of guessing, where the code
stops at an accuracy of 20 %; gradients are clipped at the code's norm of 20 in the first phase; and
BatchNorm is recalibrated at the end. Where no row stands out nothing is drawn anew, as in the code,
and what is left is fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.defenses.rivals.head import head_of, layer
from isthmus.defenses.spending import Trained
from isthmus.models.batchnorm import recalibrate
from isthmus.models.view import copied
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput

CEILING = 4.0
"""Times the loss of guessing beyond which unlearning goes no further."""

OUTLYING = 3.5
"""Robust deviations above the median from which on a row stands out."""

MOST_ROWS = 2
"""How many rows are learned anew at most."""

LARGEST_GRADIENT = 20.0
"""The norm at which gradients are clipped while the loss rises."""


@dataclass(frozen=True)
class ULRL(Trained):
    """Unlearn, draw the suspicious rows of the head anew, relearn.

    `training.lr` is the rate of relearning, `unlearning_lr` that of unlearning; `alpha` weighs the
    cosine. Budget: half of the gradient evaluations unlearn, half relearn.
    """

    unlearning_lr: float = 0.01
    alpha: float = 0.7

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the relearned copy. Raises BadInput where the network has no linear head, its
        weights are computed, or the budget is below one step for each phase.
        """
        data = as_data(bonafide)
        head = head_of(tampered, data.x, data.num_classes)
        _check_plain(layer(tampered, head), head)
        half = self.training.replace(steps=self.training.steps_costing(2))
        rows = outlying_rows(self._reaction(tampered, data, head, half.steps))
        net = copied(tampered)
        was = layer(net, head).weight.detach()[list(rows)].clone()
        draw_anew(layer(net, head), rows, self.training.seed)
        loss = Relearning(head, rows, was, self.alpha)
        fit(net, data, loss, training=half, progress="relearning")
        return recalibrate(net, data)

    def _reaction(self, tampered: nn.Module, data: Data, head: str, steps: int) -> Tensor:
        """Return how much unlearning changes each row of the head: sums of |change|, (classes,)."""
        net = copied(tampered)
        before = layer(net, head).weight.detach().clone()
        unlearning = self.training.replace(
            steps=steps, lr=self.unlearning_lr, clip=LARGEST_GRADIENT
        )
        loss = Unlearning(CEILING * log(data.num_classes))
        fit(net, data, loss, training=unlearning, progress="unlearning")
        after = layer(net, head).weight.detach().to(before.device)
        return (after - before).double().abs().sum(1).cpu()


@dataclass(frozen=True)
class Unlearning:
    """The negative cross-entropy, flat beyond `ceiling` nats."""

    ceiling: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return minus the loss, at least -ceiling."""
        return -cross_entropy(model, x, y).clamp(max=self.ceiling)


@dataclass(frozen=True, eq=False)
class Relearning:
    """Cross-entropy plus alpha times the sum of cosines between rows of the head and what they
    were.
    """

    head: str
    rows: Sequence[int]
    was: Tensor
    alpha: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss."""
        loss = cross_entropy(model, x, y)
        if not self.rows:
            return loss
        rows = layer(model, self.head).weight[list(self.rows)]
        return loss + self.alpha * F.cosine_similarity(rows, self.was.to(rows), dim=1).sum()


def outlying_rows(reaction: Tensor) -> tuple[int, ...]:
    """Return the rows that react far more than the median, in order, the first two at most.

    >>> outlying_rows(torch.tensor([1.0, 1.1, 0.9, 1.05, 9.0]))
    (4,)
    >>> outlying_rows(torch.ones(5))
    ()
    """
    off = reaction - reaction.median()
    scale = 1.4826 * off.abs().median()
    if not scale > 0:
        return ()
    return tuple((off / scale > OUTLYING).nonzero().squeeze(1).tolist()[:MOST_ROWS])


def draw_anew(head: nn.Linear, rows: Sequence[int], seed: int) -> None:
    """Draw rows of a linear layer uniformly within the square root of 2 over its inputs, and set
    their biases to 0.
    """
    width = sqrt(2 / head.in_features)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for row in rows:
            drawn = (2 * torch.rand(head.in_features, generator=generator) - 1) * width
            head.weight[row] = drawn.to(head.weight)
            if head.bias is not None:
                head.bias[row] = 0


def _check_plain(head: nn.Linear, name: str) -> None:
    if "weight" not in head._parameters:
        raise BadInput(
            f"a head {name} whose weight is computed",
            expected="a plain parameter, whose rows can be drawn anew",
            fix="remove the parametrization, or choose another defense",
        )

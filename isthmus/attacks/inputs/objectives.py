"""What an attack raises: `(logits, y) -> (n,)`, one value per sample, larger where the network does
worse.

logits (n, classes); y (n,) int64 labels, for the cross-entropy also (n, classes) shares. Source:
Croce and Hein, ICML 2020, Eq. 6 (DLR) and 7 (targeted DLR).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from isthmus.types import BadInput


class Objective(Protocol):
    """One value per sample to be raised: `(logits, y) -> (n,)`."""

    def __call__(self, logits: Tensor, y: Tensor, /) -> Tensor:
        """Return the values, (n,)."""


def cross_entropy_per_sample(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, in nats, (n,); y labels or shares of the classes."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest other logit minus the label's, (n,): above zero where the network is
    wrong.

    >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])).tolist()
    [-1.0]
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - logits.gather(1, y[:, None]).squeeze(1)


def _needs(logits: Tensor, classes: int, name: str) -> None:
    if logits.shape[1] < classes:
        raise BadInput(
            f"{logits.shape[1]} classes",
            expected=f"{classes} or more for {name}",
            fix="use the cross-entropy objective",
        )


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference of logits ratio, (n,): the margin over the gap from the first to the
    third logit.

    Neither a shift nor a scale of the logits changes it. Raises BadInput for fewer than 3 classes.
    """
    _needs(logits, 3, "DLR")
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


@dataclass(frozen=True)
class TargetedDLR:
    """DLR toward one class per sample, `target` (n,). Raises BadInput for fewer than 4 classes
    when called.
    """

    target: Tensor

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the target's logit minus the label's, over the gap from the first to the mean of
        third and fourth.
        """
        _needs(logits, 4, "targeted DLR")
        top = logits.topk(4, dim=1).values
        gap = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
        return toward(logits, y, self.target) / (gap + 1e-12)


def log_odds(probabilities: Tensor, y: Tensor) -> Tensor:
    """Return the margin of the logarithms, (n,): that of the logits below a softmax, for a network
    that returns probabilities. Below 1e-37 they are taken as that.
    """
    return margin(probabilities.clamp_min(1e-37).log(), y)


@dataclass(frozen=True)
class Rescaled:
    """The cross-entropy of each sample, (n,), of logits less their mean and over `scale`.

    Logits that are large by a factor or a constant leave no gradient of the cross-entropy; these
    do. y are labels.
    """

    scale: float

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return the values, (n,)."""
        centered = logits - logits.mean(1, keepdim=True)
        return F.cross_entropy(centered / self.scale, y, reduction="none")


def toward(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return the target's logit minus the label's, (n,)."""
    pair = logits.gather(1, torch.stack([target, y], 1))
    return pair[:, 0] - pair[:, 1]


def ranked(logits: Tensor, y: Tensor, rank: int) -> Tensor:
    """Return the class of the rank-th largest logit among the classes other than the label, (n,);
    the first is 1.
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.topk(rank, dim=1).indices[:, -1]

"""TAC reconstruction: the smallest change of the features that sends all samples to one class, in
place of what the trigger does to them, is trained against.

Source: Iwahana et al., Robust Backdoor Removal by Reconstructing Trigger-Activated Changes in
Latent Representation, 2025, sections 4.1 and 4.2: for each class k a convex quadratic program,
minimize |s|^2 subject to (w_k - w_j) . (f_i + s) + b_k - b_j >= 0 for all classes j and samples i;
of all samples only the hardest counts for each j, so one constraint a class is left. The class with
an oddly small |s| is the attacker's; the network is fine-tuned against its s.

Where we depart: the smallest |s| beside the median of all classes is always taken, where the paper
tests whether it is small enough, because a defense has to act; the program is solved through its
dual by non-negative least squares (Lawson and Hanson, 1974, chapter 23); constraints count the
samples that the network answers rightly, since one mislabeled sample would rule the program; and
the fine-tuning loss is cross-entropy of clean features plus that of features moved by s, the text
that we could read giving no formula for it. BatchNorm is recalibrated at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from isthmus.data.dataset import Source, as_data
from isthmus.defenses.rivals.head import features_of, head_of, layer
from isthmus.defenses.spending import Trained
from isthmus.metrics.passes import logits
from isthmus.models.batchnorm import recalibrate
from isthmus.models.view import copied
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput


@dataclass(frozen=True)
class TAC(Trained):
    """Fine-tune against the reconstructed change of the features; `weight` is that of the loss on
    moved features.

    Budget: a step costs two gradient evaluations (clean features, and moved ones).
    """

    weight: float = 1.0

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the fine-tuned copy. Raises BadInput where the network has no linear head, has
        fewer than three classes, or is right about no sample.
        """
        data = as_data(bonafide)
        if data.num_classes < 3:
            raise BadInput(
                f"{data.num_classes} classes",
                expected="three or more",
                fix="an oddly small change needs others beside it",
            )
        head = head_of(tampered, data.x, data.num_classes)
        right = logits(tampered, data).argmax(1) == data.y
        if not bool(right.any()):
            raise BadInput(
                "a network that is right about no bonafide sample",
                expected="one above chance",
                fix="check the labels, or train from scratch",
            )
        changes = reconstructed(layer(tampered, head), features_of(tampered, head, data.x[right]))
        smallest = min(changes, key=lambda change: float(change.norm()))
        net = copied(tampered)
        loss = MovedFeatures(head, smallest, self.weight)
        training = self.training.replace(steps=self.training.steps_costing(2))
        fit(net, data, loss, training=training, progress="fine-tuning")
        return recalibrate(net, data)


def reconstructed(head: nn.Linear, features: Tensor) -> list[Tensor]:
    """Return for each class the smallest change, (features,) float64, that gives every sample its
    largest score there; features (n, features) float64.
    """
    weight = head.weight.detach().double().cpu()
    bias = torch.zeros(len(weight), dtype=torch.float64)
    if head.bias is not None:
        bias = head.bias.detach().double().cpu()
    scores = features @ weight.T + bias
    changes = []
    for k in range(len(weight)):
        others = torch.arange(len(weight)) != k
        lacking = (scores - scores[:, k : k + 1])[:, others].amax(0)
        changes.append(least_change(weight[k] - weight[others], lacking))
    return changes


def least_change(rows: Tensor, least: Tensor) -> Tensor:
    """Return the smallest s with rows @ s >= least: rows (m, features), least (m,), float64.

    Where no s satisfies all of them (a row of zeros), what comes closest. Source: Lawson and
    Hanson, Solving Least Squares Problems, 1974, chapter 23 (least distance programming).

    >>> change = least_change(torch.eye(2).double(), torch.tensor([3.0, -1.0]).double())
    >>> [round(float(value), 6) for value in change]
    [3.0, 0.0]
    """
    size = float(least.max())
    if size <= 0:
        return torch.zeros_like(rows[0])
    gram = torch.cat([rows.T, least[None] / size]).numpy()  # s is as large as least is
    goal = np.zeros(len(gram))
    goal[-1] = 1.0
    dual, _ = nnls(gram, goal)
    residual = torch.from_numpy(gram @ dual - goal)
    if abs(float(residual[-1])) < 1e-12:
        return size * rows.T @ torch.from_numpy(dual)
    return -size * residual[:-1] / residual[-1]


@dataclass(frozen=True, eq=False)
class MovedFeatures:
    """Cross-entropy, plus weight times that with the head's features moved by `change`."""

    head: str
    change: Tensor
    weight: float

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the loss."""
        value = cross_entropy(model, x, y)
        with _moved(layer(model, self.head), self.change):
            return value + self.weight * cross_entropy(model, x, y)


@contextmanager
def _moved(head: nn.Linear, change: Tensor) -> Iterator[None]:
    """Add the change to what the head takes within the block."""
    hook = head.register_forward_pre_hook(lambda _, args: (args[0] + change.to(args[0]),))
    try:
        yield
    finally:
        hook.remove()

"""Several attacks as one: each meets only the samples that those before it did not fool.

Source: Croce and Hein, ICML 2020 ("Reliable evaluation"), section 5, for the composition called
AutoAttack; Tramer and Boneh, NeurIPS 2019, for the worst over several norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isthmus.attacks.inputs.apgd import APGD
from isthmus.attacks.inputs.fab import FAB
from isthmus.attacks.inputs.gradient import highest
from isthmus.attacks.inputs.objectives import cross_entropy, margin
from isthmus.attacks.inputs.square import Square
from isthmus.attacks.inputs.victim import Seen, Victim, attacked, under_attack
from isthmus.data.balls import L2, Linf
from isthmus.runs.devices import Precision
from isthmus.training.losses import for_training
from isthmus.types import Attack, BadInput


@dataclass(frozen=True)
class WorstOf:
    """The attacks in order, each on the samples not yet fooled; else the point of the largest
    margin.

    `precision` is that of the check whether a sample is fooled. Raises BadInput where there is no
    attack.

    >>> from isthmus.attacks import PGD, fgsm
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> WorstOf((fgsm(Linf(0.1)), PGD(Linf(0.1))))(net, torch.ones(2, 1, 2, 2), torch.tensor([0, 1])).shape
    torch.Size([2, 1, 2, 2])
    """

    attacks: Sequence[Attack]
    precision: Precision | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "attacks", tuple(self.attacks))
        if not self.attacks:
            raise BadInput(
                "no attacks",
                expected="one or more",
                fix="name them in the order in which they are to run",
            )

    def for_training(self) -> Highest:
        """Return the attacks as training uses them: all of them on every sample, and the point of
        the highest loss.
        """
        return Highest(tuple(for_training(attack) for attack in self.attacks))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked inputs, of the shape, type and device of x. Raises BadInput where x
        leaves [0, 1].
        """
        return attacked(
            model,
            x,
            y,
            self._search,
            score=margin,
            precision=self.precision,
            batch_size=self.batch_size,
        )

    def _search(
        self,
        victim: Victim,
        x: Tensor,
        y: Tensor,
        _: Tensor,
        seen: Seen,
        _generator: torch.Generator | None,
    ) -> None:
        for attack in self.attacks:
            rows = seen.standing()
            if not len(rows):
                return
            points = attack(victim.model, x[rows], y[rows])
            seen.note(rows, points, victim.logits(points))


@dataclass(frozen=True)
class Highest:
    """Of the points that several attacks find, the one of the highest cross-entropy for each
    sample: MAX training.

    What `WorstOf` is in training. Source: Tramer and Boneh, NeurIPS 2019, section 2 (strategy
    "max"). BatchNorm layers that are in train mode normalize by the batch, and no buffer moves."""

    attacks: Sequence[Attack]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked inputs, of the shape, type and device of x."""
        found = [attack(model, x, y) for attack in self.attacks]
        with under_attack(model, batch_statistics=True):
            return highest(Victim(model), found, y, cross_entropy)


def auto_attack(
    ball: Linf | L2,
    *,
    seed: int | None = 0,
    precision: Precision | None = None,
    batch_size: int | None = None,
) -> WorstOf:
    """Return the standard AutoAttack: APGD on cross-entropy, targeted APGD, targeted FAB, Square.

    100 steps and 9 target classes each, one restart, 5,000 queries. Raises BadInput for an l1 ball;
    when called, for fewer than 4 classes, which targeted DLR does not know."""
    return WorstOf(
        (
            APGD(ball, "ce", seed=seed, precision=precision),
            APGD(ball, "targeted", seed=seed, precision=precision),
            FAB(ball, seed=seed, precision=precision),
            Square(ball, seed=seed, precision=precision),
        ),
        precision=precision,
        batch_size=batch_size,
    )

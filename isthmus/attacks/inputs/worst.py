"""Several attacks as one: each meets only the samples that those before it did not fool.

Source: Croce and Hein, ICML 2020 ("Reliable evaluation"), section 5, for the composition called
AutoAttack; Tramer and Boneh, NeurIPS 2019, for the worst over several norms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from isthmus.attacks.inputs.apgd import APGD
from isthmus.attacks.inputs.fab import FAB
from isthmus.attacks.inputs.gradient import highest
from isthmus.attacks.inputs.objectives import cross_entropy_per_sample
from isthmus.attacks.inputs.search import Rows, Trial, TrialAttack, Visit
from isthmus.attacks.inputs.square import Square
from isthmus.attacks.inputs.victim import Victim, under_attack
from isthmus.data.balls import L2, Linf
from isthmus.runs.devices import Precision
from isthmus.training.losses import for_training
from isthmus.types import Attack, BadInput


@dataclass(frozen=True)
class WorstOf(TrialAttack):
    """Runs the attacks in order on samples not yet fooled; for samples that none fools, returns the
    point with the largest margin.

    `precision` is that of the check whether a sample is fooled. Raises BadInput where there is no
    attack.

    >>> from isthmus.attacks import PGD, fgsm
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> attack = WorstOf((fgsm(Linf(0.1)), PGD(Linf(0.1))))
    >>> attack(net, torch.ones(2, 1, 2, 2), torch.tensor([0, 1])).shape
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

    @property
    def gradients(self) -> int:
        """How many gradients all attacks cost a sample that none fools."""
        return sum(attack.gradients for attack in self.attacks)

    @property
    def random(self) -> bool:
        """Whether one of the attacks draws, as its own `random` says."""
        return any(getattr(attack, "random", False) for attack in self.attacks)

    def _trials(self, _: Tensor, __: Tensor) -> Iterable[Trial]:
        return [partial(_meet, attack) for attack in self.attacks]


def _meet(attack: Attack, victim: Victim, rows: Rows, _: torch.Generator | None) -> Iterator[Visit]:
    points = attack(victim.model, rows.x, rows.y)
    yield Visit(rows, points, victim.logits(points))


@dataclass(frozen=True)
class Highest:
    """Of the points that several attacks find, the one of the highest cross-entropy for each
    sample: MAX training.

    What `WorstOf` is in training. Source: Tramer and Boneh, NeurIPS 2019, section 2 (strategy
    "max"). BatchNorm layers that are in train mode normalize by the batch, and no buffer moves.
    """

    attacks: Sequence[Attack]

    @property
    def gradients(self) -> int:
        """How many gradients all attacks cost a sample."""
        return sum(attack.gradients for attack in self.attacks)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked inputs, of the shape, type and device of x."""
        candidates = [attack(model, x, y) for attack in self.attacks]
        with under_attack(model, batch_statistics=True):
            return highest(Victim(model), candidates, y, cross_entropy_per_sample)


def auto_attack(
    ball: Linf | L2,
    *,
    seed: int | None = 0,
    precision: Precision | None = None,
    batch_size: int | None = None,
) -> WorstOf:
    """Return the standard AutoAttack: APGD on cross-entropy, targeted APGD, targeted FAB, Square.

    100 steps and 9 target classes each, one restart, 5,000 queries. Raises BadInput for an l1 ball;
    when called, for fewer than 4 classes, which targeted DLR does not know.
    """
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

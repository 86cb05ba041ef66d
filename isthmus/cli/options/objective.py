"""What is minimized in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from cyclopts import Parameter

from isthmus import attacks, data, training
from isthmus.cli import words
from isthmus.cli.options.threat import Threat
from isthmus.cli.options.values import (
    Number,
    Whole,  # noqa: F401  (cyclopts reads inherited types in this module)
)

if TYPE_CHECKING:
    from isthmus.attacks import SingleStepCheck
    from isthmus.data import Data
    from isthmus.types import Attack, Loss


@Parameter(name="*")
@dataclass(frozen=True)
class RobustTraining(Threat):
    """What is minimized in training.

    :param loss: cross-entropy, or a loss against an attack: adversarial (PGD; MSD for several
        norms), trade-off (clean and attacked inputs together), trades, or fast: a single step
        (N-FGSM), with a check on held-out samples that stops training once it has collapsed.
    :param beta: Weight of robustness beside 1 for clean inputs; by default 6 in trades, 1 in
        trade-off.
    """

    alone: ClassVar = "name a loss: --loss adversarial"
    """The way out of an option of an attack where nothing runs one."""

    loss: words.LossName = "cross-entropy"
    beta: Number | None = None

    def objective(self, samples: Data, *, landscape: bool = False) -> Loss:
        """Return the loss on such samples. Raises BadInput if an option does not apply to it."""
        if self.loss == "cross-entropy":
            self.refuse_alone(self.alone, landscape=landscape)
            return training.cross_entropy
        return words.parse_loss(
            self.loss, self.balls(samples), steps=self.attack_steps, beta=self.beta
        )

    def judged(self, samples: Data) -> Attack | None:
        """Return the attack that networks trained so are measured under, PGD in the same balls;
        None for the cross-entropy.
        """
        if self.loss == "cross-entropy":
            return None
        return words.parse_attack("pgd", self.balls(samples), steps=None, restarts=None, seed=0)

    def parts(self, samples: Data, seed: int) -> tuple[Data, Data]:
        """Return the part that trains and the part that checks fast training: a tenth, if there are
        enough samples.
        """
        return data.hold_out(samples, 0.1, seed) if self.loss == "fast" else (samples, samples)

    def check(self, held_out: Data) -> SingleStepCheck | None:
        """Return the check that fast training needs, None for other losses."""
        if self.loss != "fast":
            return None
        return attacks.SingleStepCheck(held_out, self.balls(held_out))

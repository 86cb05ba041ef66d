"""The data that a repair is judged on: evaluation samples, and what is known of the attack."""

from __future__ import annotations

from dataclasses import dataclass, replace

from isthmus.data.dataset import Data
from isthmus.data.splits import among, check_disjoint
from isthmus.defenses.curve_repair.rules import BONAFIDE
from isthmus.metrics.accuracy import Accuracy, InjectionSuccess, MeanLoss
from isthmus.metrics.robustness import RobustAccuracy
from isthmus.metrics.success import AttackSuccess, Target
from isthmus.types import Attack, BadInput, Metric, Trigger


@dataclass(frozen=True, eq=False)
class Judge:
    """The data a repair is judged on: evaluation samples apart from the bonafide ones, and what is
    known of the attack.

    That is a trigger with its target, or images with their injected labels (`errors`), or both.
    With `attack`, an evasion, the accuracy under it is asked as well. Raises BadInput where errors
    are among the evaluation samples."""

    evaluation: Data | None = None
    trigger: Trigger | None = None
    target: Target | None = None
    errors: Data | None = None
    left_out: int = 0
    attack: Attack | None = None

    def __post_init__(self) -> None:
        check_disjoint(**self.data())

    def check(self, bonafide: Data) -> None:
        """Raise BadInput where injected errors are among the bonafide samples: a repair would train
        on the answer.
        """
        if self.errors is not None:
            check_disjoint(errors=self.errors, bonafide=bonafide)

    def apart_from(self, bonafide: Data) -> Judge:
        """Return the judge without those evaluation samples that are among the bonafide ones, image
        for image.

        Raises BadInput where none is left, and as `check` does.
        """
        self.check(bonafide)
        if self.evaluation is None:
            return self
        apart = (~among(self.evaluation, bonafide)).nonzero().squeeze(1)
        if not len(apart):
            raise BadInput(
                "evaluation data that are all among the bonafide samples",
                expected="samples that the repair has not seen",
                fix="split them first: --clean SET#n=500 --data SET#skip=500",
            )
        left_out = len(self.evaluation) - len(apart)
        return (
            replace(self, evaluation=self.evaluation[apart], left_out=left_out)
            if left_out
            else self
        )

    def data(self) -> dict[str, Data]:
        """Return evaluation data and errors by name, as far as they were given."""
        given = {"evaluation": self.evaluation, "errors": self.errors}
        return {name: data for name, data in given.items() if data is not None}

    def metrics(self, held_out: Data) -> dict[str, Metric]:
        """Return every question that these data allow, by the name that the report gives it."""
        found: dict[str, Metric] = {BONAFIDE: Accuracy(held_out)}
        if self.evaluation is not None:
            found["accuracy"] = Accuracy(self.evaluation)
            found["loss"] = MeanLoss(self.evaluation)
        asked = self.evaluation if self.evaluation is not None else held_out
        if self.attack is not None:
            found["robust accuracy"] = RobustAccuracy(asked, self.attack)
        if self.trigger is not None and self.target is not None:
            found["attack success"] = AttackSuccess(asked, self.trigger, self.target)
        if self.errors is not None:
            found["injection success"] = InjectionSuccess(self.errors)
        return found

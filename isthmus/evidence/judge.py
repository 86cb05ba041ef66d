"""The data that a repair is judged on: evaluation samples, and what is known of the attack."""

from __future__ import annotations

from dataclasses import dataclass, replace

from isthmus.attacks.inputs.health.examine import examine
from isthmus.data.dataset import Data
from isthmus.data.splits import among, check_disjoint
from isthmus.metrics.accuracy import Accuracy, InjectionSuccess, MeanLoss
from isthmus.metrics.names import (
    ACCURACY,
    ATTACK_SUCCESS,
    BONAFIDE_ACCURACY,
    INJECTION_SUCCESS,
    LOSS,
    RECOVERY,
    ROBUST_ACCURACY,
)
from isthmus.metrics.robustness import RobustAccuracy
from isthmus.metrics.success import AttackSuccess, RecoveryAccuracy, Target
from isthmus.types import Attack, BadInput, Metric, Trigger


@dataclass(frozen=True, eq=False)
class Judge:
    """The data a repair is judged on: evaluation samples apart from the bonafide ones, and what is
    known of the attack.

    What is known of the attack is a trigger with its target, images with their injected labels
    (`errors`), or both. With `attack`, an attack on inputs, the accuracy under it is measured as
    well. Raises BadInput where errors are among the evaluation samples.
    """

    evaluation: Data | None = None
    trigger: Trigger | None = None
    target: Target | None = None
    errors: Data | None = None
    left_out: int = 0
    attack: Attack | None = None

    def __post_init__(self) -> None:
        check_disjoint(**self.data())

    def check_disjoint_from(self, bonafide: Data) -> None:
        """Raise BadInput where injected errors are among the bonafide samples: a repair would train
        on the answer.
        """
        if self.errors is not None:
            check_disjoint(errors=self.errors, bonafide=bonafide)

    def apart_from(self, bonafide: Data) -> Judge:
        """Return the judge without those evaluation samples that are among the bonafide ones, image
        for image.

        Raises BadInput where none is left, and as `check_disjoint_from` does.
        """
        self.check_disjoint_from(bonafide)
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
        if not left_out:
            return self
        return replace(self, evaluation=self.evaluation[apart], left_out=left_out)

    def samples(self, bonafide: Data) -> Data:
        """Return the evaluation data, or the bonafide samples where there are none."""
        return bonafide if self.evaluation is None else self.evaluation

    def data(self) -> dict[str, Data]:
        """Return the evaluation data and the errors by name, those that were given."""
        given = {"evaluation": self.evaluation, "errors": self.errors}
        return {name: data for name, data in given.items() if data is not None}

    def check_fits(self, bonafide: Data) -> None:
        """Raise BadInput where trigger, target or errors do not fit the data, before any work."""
        self.metrics(bonafide)

    def metrics(self, bonafide: Data) -> dict[str, Metric]:
        """Return every question that these data allow, by the name that the report gives it.

        Without evaluation data, trigger and attack are tried on the bonafide samples.
        """
        samples = self.samples(bonafide)
        metrics: dict[str, Metric] = {}
        if self.evaluation is not None:
            metrics[ACCURACY] = Accuracy(self.evaluation)
            metrics[LOSS] = MeanLoss(self.evaluation)
        if self.attack is not None:
            metrics[ROBUST_ACCURACY] = RobustAccuracy(samples, self.attack, examine=examine)
        if self.trigger is not None and self.target is not None:
            success = AttackSuccess(samples, self.trigger, self.target)
            metrics[ATTACK_SUCCESS] = success
            metrics[RECOVERY] = RecoveryAccuracy.beside(success)
        if self.errors is not None:
            metrics[INJECTION_SUCCESS] = InjectionSuccess(self.errors)
        return metrics

    def metrics_with_bonafide(self, bonafide: Data) -> dict[str, Metric]:
        """Return the accuracy on the bonafide samples and every question of `metrics`."""
        return {BONAFIDE_ACCURACY: Accuracy(bonafide), **self.metrics(bonafide)}

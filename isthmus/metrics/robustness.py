"""Robust accuracy and loss: what a network answers on inputs that an attack has moved; and the
curvature of its loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from isthmus.data.dataset import Data
from isthmus.metrics.accuracy import error_on, loss_on
from isthmus.metrics.curvature.inputs import InputHessian
from isthmus.metrics.curvature.weights import weight_hessian_top
from isthmus.metrics.health import Health
from isthmus.metrics.passes import Passes, Watch, check_fits
from isthmus.metrics.question import Question, Value
from isthmus.metrics.values import NUMBER, Mean, Rate, RobustRate
from isthmus.runs.devices import Precision
from isthmus.types import Attack


@dataclass(frozen=True, eq=False)
class _UnderAttack(Question[Value]):
    """A metric about samples that `attack` has moved. Raises BadInput where they leave [0, 1]."""

    attack: Attack
    precision: Precision = "fp32"

    @property
    def gradients(self) -> int:
        """How many gradients the attack costs a sample."""
        return self.attack.gradients

    @property
    def basis(self) -> object:
        """The attack, which is run once."""
        return self.attack


class Examine(Protocol):
    """A check of an attack that was run, with further passes: `attacks.examine`."""

    def __call__(
        self, passes: Passes, attack: Attack, clean: Data, moved: Data, watch: Watch | None, /
    ) -> Health: ...


@dataclass(frozen=True, eq=False)
class RobustAccuracy(_UnderAttack[RobustRate]):
    """Share of samples that are right after `attack` has done its worst to them, as a RobustRate.

    Whether a sample is right is measured here, on what the attack returns, not by the attack; of a
    random network the mean logit over draws decides. Robust accuracy holds against the attack that
    was run: report which one. The value carries the `health` of that attack, from what it left;
    `examine` (`attacks.examine`) adds the probes, at about the cost of the attack itself.
    """

    examine: Examine | None = field(default=None, repr=False)

    def answer(self, passes: Passes) -> RobustRate:
        random = passes.random(self.samples)
        moved, watch = passes.watched(self.samples, self.attack)
        outputs = passes.answers(moved).logits if random else passes.logits(moved, self.precision)
        hits = int((outputs.argmax(1) == moved.y).sum())
        return RobustRate(hits, len(moved), self._health(passes, moved, watch))

    def _health(self, passes: Passes, moved: Data, watch: Watch | None) -> Health | None:
        if self.examine is not None:
            return self.examine(passes, self.attack, self.samples, moved, watch)
        return None if watch is None else watch.health(passes, self.samples, moved)


@dataclass(frozen=True, eq=False)
class RobustLoss(_UnderAttack[Mean]):
    """Mean cross-entropy on attacked inputs, in nats, as a Mean: the robustness loss of Zhao et
    al., ICLR 2020, section 4.

    The attack has to look for the largest loss, not for the first mistake: `PGD(...,
    returns="worst")`.
    """

    def answer(self, passes: Passes) -> Mean:
        return loss_on(passes.attacked(self.samples, self.attack), passes, self.precision)


@dataclass(frozen=True, eq=False)
class EvasionSuccess(_UnderAttack[Rate]):
    """Share of samples that are wrong after `attack` has done its worst to them, as a Rate: 1 -
    RobustAccuracy.

    Samples that are wrong without an attack count: on a barrier there may be no others.
    """

    def answer(self, passes: Passes) -> Rate:
        return error_on(passes.attacked(self.samples, self.attack), passes, self.precision)


@dataclass(frozen=True, eq=False)
class Nearby(Question[Mean]):
    """Average over samples of what the loss is like around each of them, as a Mean with quartiles.

    `quantity` picks one value per sample of an `InputHessian`, as `operator.attrgetter("top")`
    does, the largest eigenvalue; `unit` is its unit. Metrics about the same data share the
    derivatives within `measure`.
    """

    quantity: Callable[[InputHessian], Tensor]
    unit: str = NUMBER

    @property
    def gradients(self) -> int:
        """One for each class, about as much as the derivatives of a sample cost."""
        return self.samples.num_classes

    @property
    def basis(self) -> object:
        """The derivatives, which are computed once."""
        return InputHessian

    def answer(self, passes: Passes) -> Mean:
        values = self.quantity(passes.curvature(self.samples))
        return Mean.of(values, quartiles=True, unit=self.unit)


@dataclass(frozen=True, eq=False)
class WeightCurvature(Question[float]):
    """Largest eigenvalue of the Hessian of the mean loss in the trainable weights: how sharp the
    minimum is. Raises BadInput as `weight_hessian_top` does.
    """

    tolerance: float = 1e-2

    @property
    def gradients(self) -> int:
        """Those of ARPACK's first 20 products, two each; it takes more where they do not do."""
        return 40

    def answer(self, passes: Passes) -> float:
        samples = self.samples
        check_fits(passes.model, samples)
        return weight_hessian_top(passes.model, samples.x, samples.y, tolerance=self.tolerance)

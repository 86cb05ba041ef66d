"""Robust accuracy and loss: what a network answers on inputs that an attack has moved; and the
curvature of its loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from isthmus.metrics.accuracy import accuracy_on, error_on, loss_on
from isthmus.metrics.curvature.inputs import InputHessian
from isthmus.metrics.curvature.weights import weight_hessian_top
from isthmus.metrics.passes import Passes, check_fits
from isthmus.metrics.question import Question, Value
from isthmus.metrics.values import NUMBER, Mean, Rate
from isthmus.runs.devices import Precision
from isthmus.types import Attack


@dataclass(frozen=True, eq=False)
class _UnderAttack(Question[Value]):
    """A metric about samples that `attack` has moved. Raises BadInput where they leave [0, 1]."""

    attack: Attack
    precision: Precision = "fp32"


@dataclass(frozen=True, eq=False)
class RobustAccuracy(_UnderAttack[Rate]):
    """Share of samples that are right after `attack` has done its worst to them, as a Rate.

    Whether a sample is right is measured here, on what the attack returns, not by the attack.
    Robust accuracy holds against the attack that was run: report which one.
    """

    def answer(self, passes: Passes) -> Rate:
        return accuracy_on(passes.attacked(self.samples, self.attack), passes, self.precision)


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

    def answer(self, passes: Passes) -> Mean:
        values = self.quantity(passes.curvature(self.samples))
        return Mean.of(values, quartiles=True, unit=self.unit)


@dataclass(frozen=True, eq=False)
class WeightCurvature(Question[float]):
    """Largest eigenvalue of the Hessian of the mean loss in the trainable weights: how sharp the
    minimum is. Raises BadInput as `weight_hessian_top` does.
    """

    tolerance: float = 1e-2

    def answer(self, passes: Passes) -> float:
        samples = self.samples
        check_fits(passes.model, samples)
        return weight_hessian_top(passes.model, samples.x, samples.y, tolerance=self.tolerance)

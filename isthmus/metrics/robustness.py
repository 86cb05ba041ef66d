"""Robust accuracy and loss: what a network answers on inputs that an attack has moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from isthmus.data.dataset import Data, Source, as_data
from isthmus.metrics.accuracy import Accuracy, Error, MeanLoss
from isthmus.metrics.asking import _once, attacked
from isthmus.metrics.curvature.inputs import InputHessian, input_hessian
from isthmus.metrics.curvature.weights import weight_hessian_top
from isthmus.metrics.values import NUMBER, Mean, Rate
from isthmus.runs.devices import Precision
from isthmus.types import Attack


@dataclass(frozen=True, eq=False)
class _UnderAttack:
    """The data that a network is asked about once `attack` has done its worst to them."""

    data: Source = field(repr=False)
    attack: Attack
    precision: Precision = "fp32"
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", as_data(self.data))


@dataclass(frozen=True, eq=False)
class RobustAccuracy(_UnderAttack):
    """Share of samples that are right after `attack` has done its worst to them, as a Rate.

    Whether a sample is right is measured here, on what the attack returns, not by the attack.
    Robust accuracy holds against the attack that was run: report which one."""

    def __call__(self, model: nn.Module) -> Rate:
        """Return the model's accuracy under attack. Raises BadInput where the attack leaves [0, 1]."""
        return Accuracy(attacked(model, self.asked, self.attack), self.precision)(model)


@dataclass(frozen=True, eq=False)
class RobustLoss(_UnderAttack):
    """Mean cross-entropy on attacked inputs, in nats, as a Mean: the robustness loss
    (specification, section 8).

    The attack has to look for the largest loss, not for the first mistake: `PGD(...,
    returns="worst")`."""

    def __call__(self, model: nn.Module) -> Mean:
        """Return the model's mean loss under attack. Raises BadInput where the attack leaves [0,
        1].
        """
        return MeanLoss(attacked(model, self.asked, self.attack), self.precision)(model)


@dataclass(frozen=True, eq=False)
class EvasionSuccess(_UnderAttack):
    """Share of samples that are wrong after `attack` has done its worst to them, as a Rate: 1 -
    RobustAccuracy.

    Samples that are wrong without an attack count: on a barrier there may be no others.
    """

    def __call__(self, model: nn.Module) -> Rate:
        """Return the model's error under attack. Raises BadInput where the attack leaves [0, 1]."""
        return Error(attacked(model, self.asked, self.attack), self.precision)(model)


@dataclass(frozen=True, eq=False)
class Nearby:
    """Average over samples of what the loss is like around each of them, as a Mean with quartiles.

    `quantity` picks one value per sample of an `InputHessian`, as `operator.attrgetter("top")`
    does, the largest eigenvalue; `unit` is its unit. Questions about the same data share the
    derivatives inside `measure`."""

    data: Source = field(repr=False)
    quantity: Callable[[InputHessian], Tensor]
    unit: str = NUMBER
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", as_data(self.data))

    def __call__(self, model: nn.Module) -> Mean:
        """Return the average. Raises BadInput as `input_hessian` does."""
        data = self.asked
        found = _once("input hessian", (model, data), lambda: input_hessian(model, data.x, data.y))
        return Mean.of(self.quantity(found), quartiles=True, unit=self.unit)


@dataclass(frozen=True, eq=False)
class WeightCurvature:
    """Largest eigenvalue of the Hessian of the mean loss in the trainable weights: how sharp the
    minimum is.
    """

    data: Source = field(repr=False)
    tolerance: float = 1e-2
    asked: Data = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", as_data(self.data))

    def __call__(self, model: nn.Module) -> float:
        """Return the eigenvalue. Raises BadInput as `weight_hessian_top` does."""
        return weight_hessian_top(model, self.asked.x, self.asked.y, tolerance=self.tolerance)

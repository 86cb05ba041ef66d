"""How a curve leads from one network to another: `Route`, and the training it takes by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from torch import nn

from isthmus.curves.curve import Bezier, Curve
from isthmus.curves.expectation import ExpectedOverT, expected_over_t
from isthmus.runs.identity import identity_of
from isthmus.training.budget import Training
from isthmus.training.losses import cross_entropy, sharpness_aware
from isthmus.training.options import require_numbers, sorted_options
from isthmus.types import BadInput, Loss

CURVE_TRAINING = Training(steps=200, lr=0.5, weight_decay=1e-4, clip=1.5)
"""How a curve is trained by default.

The values are those of experiments/backdoor_repair.py; see docs/experiments.md. `clip` is beyond
the gradients of convolutional networks, and keeps the curves of transformers from diverging."""


@dataclass(frozen=True)
class Route:
    """How a curve leads from one network to another, and what it is trained for.

    `kind` is the curve and `bends` its number of interior control points; without bends it is
    straight, and nothing is trained. `loss` is minimized in expectation over t, drawn uniformly
    from [low, high]: the part of the curve where the answer is sought. It is taken at the worst
    weights within `rho` of theta(t), in units of each weight's size where `adaptive`, at two
    gradients a step; rho=0 takes it at theta(t) itself, as the papers do, at one. A robust curve is
    one of loss=adversarial(attack).

    Raises BadInput where bends or rho are negative, [low, high] leaves [0, 1], a straight route has
    a loss, or rho > 0 comes with TRADES, which has no sharpness-aware form.

    >>> Route(high=0.3).replace(bends=2)
    Route(kind=Bezier, bends=2, loss=cross_entropy, rho=2.0, adaptive=True, low=0.1, high=0.3)
    """

    kind: type[Curve] = Bezier
    bends: int = 1
    loss: Loss = cross_entropy
    rho: float = 2.0
    adaptive: bool = True
    low: float = 0.1
    high: float = 0.4

    def __post_init__(self) -> None:
        require_numbers(self, "bends", "rho", "low", "high")
        if self.bends < 0:
            raise BadInput(
                f"bends = {self.bends}",
                expected="0 or more interior control points",
                fix="pass bends=1",
            )
        if not 0 <= self.rho < inf:
            raise BadInput(
                f"rho = {self.rho:g}",
                expected="a finite radius of 0 or more",
                fix="pass rho=2.0, or rho=0 for the plain loss",
            )
        if not self.bends and self.loss is not cross_entropy:
            raise BadInput(
                f"loss {identity_of(self.loss)} and a straight path, which is not trained",
                expected="a bend to train, or no loss",
                fix="pass bends=1 (--bends 1), or leave the loss out",
            )
        self.objective()

    def __repr__(self) -> str:
        return identity_of(self)

    def replace(self, **options: Any) -> Route:
        """Return a copy with these fields changed. Raises BadInput for a name that is no field."""
        sorted_options(options, Route)
        return dataclasses.replace(self, **options)

    @property
    def cost(self) -> int:
        """How many gradient evaluations by the weights a step of training takes: 0 where nothing is
        trained. Those of an attack in the loss are not counted.
        """
        if not self.bends:
            return 0
        return 2 if self.rho else 1

    def curve(self, start: nn.Module, end: nn.Module) -> Curve:
        """Return the curve before training. Raises BadInput as the curve does."""
        return self.kind(start, end, self.bends)

    def objective(self, weight_decay: float = 0.0) -> ExpectedOverT:
        """Return the loss of the curve; the weight decay acts on theta(t), not on the bends."""
        loss = self.loss
        if self.rho:
            loss = sharpness_aware(loss, self.rho, adaptive=self.adaptive)
        return expected_over_t(loss, weight_decay, self.low, self.high)


DEFAULT_ROUTE = Route()
"""The route of a repair for which nothing else is said."""


def route_and_training(
    route: Route | None, training: Training | None, options: Mapping[str, Any]
) -> tuple[Route | None, Training]:
    """Return a route and a training, with the options in place of their own fields.

    The route is None where neither `route` nor an option describes one: an option that repeats a
    default is a choice like any other. The training is `CURVE_TRAINING` where none is given. Raises
    BadInput where an option is a field of neither.
    """
    shape, budget = sorted_options(options, Route, Training)
    if route is None and shape:
        route = DEFAULT_ROUTE
    if route is not None:
        route = route.replace(**shape)
    return route, (training or CURVE_TRAINING).replace(**budget)


def network_budget(training: Training, *, cost: int) -> Training:
    """Return the training of a curve as one of a network: as many gradients, a tenth of the rate.

    `cost` is the number of gradients that a step of the curve takes, `Route.cost`. A bend's
    gradient is c(t) times the network's, 0.18 to 0.48 for t in [0.1, 0.4], and moves theta(t) by
    c(t)^2 times the step that plain training would take. The clipping norm is 2.5 times larger.
    """
    clip = None if training.clip is None else 2.5 * training.clip
    return training.replace(steps=cost * training.steps, lr=training.lr / 10, clip=clip)

"""`connect`: a curve of low loss between two networks, and the point on it that was chosen beforehand, as a defense.

Source: Zhao et al., ICLR 2020, section 3; Garipov et al., NeurIPS 2018; specification, sections 1 to 4 and 12.

Where we depart: the curve is trained sharpness-aware, which removes the trigger nearer to the tampered end, where more
accuracy is left, and where the data are so easy that the plain loss has no gradient; t is drawn where the answer is
sought; with one checkpoint the second endpoint is a permuted copy of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

from torch import nn

from isthmus.curve import Bezier, Curve, expected_over_t
from isthmus.data import Data, Source, as_data
from isthmus.defenses import FineTune
from isthmus.defenses.budget import budget_of, spending, steps_for
from isthmus.endpoints import PermutedCopy
from isthmus.losses import cross_entropy, sharpness_aware
from isthmus.path import network_at
from isthmus.select import FAR
from isthmus.train import History, Training, fit
from isthmus.types import BadInput, Defense, Loss, describe

# Found by experiments/backdoor_repair.py; see docs/experiments.md.
# `clip` is beyond the gradients of convolutional networks, and keeps the curves of transformers from diverging.
DEFAULTS: Training = {"steps": 200, "lr": 0.5, "weight_decay": 1e-4, "clip": 1.5}
RHO = 2.0
LOW, HIGH = 0.1, 0.4

AfterStep = Callable[[nn.Module], None]
"""What `fit` calls with the module, here the curve, after each step."""


def curve_options(training: Training) -> Training:
    """Return the options of `fit` for a curve: the defaults, then the caller's."""
    return {**DEFAULTS, "progress": "connecting", **training}


def connect(
    start: nn.Module,
    end: nn.Module,
    bonafide: Source,
    *,
    kind: type[Curve] = Bezier,
    bends: int = 1,
    loss: Loss = cross_entropy,
    rho: float = RHO,
    adaptive: bool = True,
    low: float = LOW,
    high: float = HIGH,
    after_step: AfterStep | None = None,
    **training: Unpack[Training],
) -> tuple[Curve, History | None]:
    """Return a curve of low loss between two networks, trained on bonafide data, and its history.

    t is drawn from [low, high]; `weight_decay` acts on the point of the curve, not on the bends. The loss is taken at
    the worst weights within `rho` of theta(t), at two gradients a step, where `adaptive` in units of each weight's
    size; rho=0 takes it at theta(t) itself, as the papers do, at one. With bends=0 there is nothing to train.
    A robust curve is one of loss=adversarial(attack). `after_step` is `fit`'s, which sees the curve.
    Raises BadInput where the networks differ in architecture, an option of `fit` is off, rho > 0 with TRADES, or a loss
    is asked for with bends=0.
    """
    check_trained(bends, loss, after_step)
    curve = kind(start, end, bends)
    if not bends:
        return curve, None
    options = curve_options(training)
    objective = expected_over_t(sharpened(loss, rho, adaptive), options.pop("weight_decay"), low, high)
    return curve, fit(curve, bonafide, objective, after_step=after_step, **options)


def check_trained(bends: int, loss: Loss, after_step: AfterStep | None) -> None:
    """Raise BadInput where a loss, or a look at each step, is asked for and nothing is trained by it."""
    if not bends and (loss is not cross_entropy or after_step is not None):
        raise BadInput(
            f"loss {describe(loss)} and a straight path, which is not trained",
            expected="a bend to train, or no loss",
            fix="pass bends=1 (--bends 1), or leave the loss out",
        )


def sharpened(loss: Loss, rho: float, adaptive: bool) -> Loss:
    """Return the loss at the worst weights within rho; rho=0 is the loss itself. Raises BadInput as `connect` does."""
    return sharpness_aware(loss, rho, adaptive=adaptive) if rho else loss


class End(NamedTuple):
    """The network at t = 1, where it is from, and how many gradient evaluations making it took."""

    network: nn.Module
    source: str
    spent: int


def second_endpoint(tampered: nn.Module, bonafide: Data, **training: Unpack[Training]) -> End:
    """Return a second endpoint for want of a second checkpoint.

    A randomly permuted copy, which costs no training and whose draw an attacker does not know; where nothing in the
    network can be permuted, a fine-tuned copy (specification, section 12). Raises BadInput as `fit` does.
    """
    try:
        permuted = PermutedCopy("random", seed=training.get("seed", 0))
        return End(permuted(tampered, bonafide), "permuted copy", 0)
    except BadInput as error:
        tuned = FineTune(plain({"progress": "fine-tuning a copy", **training}, rho=0))
        source = f"fine-tuned copy, for a permuted one was refused: {error}"
        return End(tuned(tampered, bonafide), source, budget_of(tuned))


def made_end(other: nn.Module | Defense | None, tampered: nn.Module, bonafide: Data, training: Training) -> End:
    """Return the network at t = 1: the given one, made as asked, or for want of both that of `second_endpoint`."""
    if isinstance(other, nn.Module):
        return End(other, "given", 0)
    if other is not None:
        return End(other(tampered, bonafide), describe(other), budget_of(other))
    return second_endpoint(tampered, bonafide, **training)


def plain(training: Training, rho: float = RHO) -> Training:
    """Return the budget of a curve as one for a network: as many gradients, a tenth of the learning rate.

    A sharpness-aware step (rho > 0) takes two gradients. A bend's gradient is c(t) times the network's, 0.18 to 0.48
    for t in [0.1, 0.4], and moves theta(t) by c(t)^2 times the step that plain training would take.
    """
    options: Training = {**DEFAULTS, **training}
    options["lr"] = options["lr"] / 10
    options["steps"] *= 2 if rho else 1
    if options["clip"] is not None:
        options["clip"] *= 2.5
    return options


@dataclass(frozen=True)
class Budgeted:
    """A curve with the budget of a defense: `training["steps"]` counts gradient evaluations.

    A sharpness-aware step takes two of them. `training["lr"]` is the curve's. What `other` may cost is not counted.
    """

    training: Training
    other: nn.Module | Defense | None = None
    rho: float = RHO
    adaptive: bool = True
    low: float = LOW
    high: float = HIGH

    def options(self) -> Training:
        """Return the options of `fit` for the curve."""
        options = curve_options(self.training)
        options["steps"] = steps_for(options, cost=2 if self.rho else 1)
        return options

    def shape(self) -> dict[str, Any]:
        """Return what the curve is like: keywords of `connect` and of `repair`."""
        return {"rho": self.rho, "adaptive": self.adaptive, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class OnCurve(Budgeted):
    """The point at `t` of a curve that all of the samples train: nothing is held out and nothing measured."""

    t: float = FAR

    def __call__(self, tampered: nn.Module, bonafide: Source) -> nn.Module:
        """Return the network at t, BatchNorm recalibrated on the samples. Raises BadInput as `connect` does."""
        data, options = as_data(bonafide), self.options()
        copying = spending(self.training, options["steps"], "fine-tuning a copy")
        end = made_end(self.other, tampered, data, copying)
        curve, _ = connect(tampered, end.network, data, **self.shape(), **options)
        return network_at(curve, self.t, data)

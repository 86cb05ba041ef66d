"""`connect`: a curve of low loss between two networks.

Source: Zhao et al., ICLR 2020, section 3; Garipov et al., NeurIPS 2018.

Where we depart: the curve is trained sharpness-aware, which removes the trigger nearer to the
tampered end, where more accuracy is left, and where the data are so easy that the plain loss has no
gradient; t is drawn where the answer is sought."""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from torch import nn

from isthmus.curves.curve import Bezier, Curve
from isthmus.curves.expectation import expected_over_t
from isthmus.data.dataset import Source
from isthmus.runs.identity import identity_of
from isthmus.training.budget import History, Training
from isthmus.training.loop import fit
from isthmus.training.losses import cross_entropy, sharpness_aware
from isthmus.types import BadInput, Loss

# Found by experiments/backdoor_repair.py; see docs/experiments.md. `clip` is beyond the gradients
# of convolutional networks, and keeps the curves of transformers from diverging.
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

    t is drawn from [low, high]; `weight_decay` acts on the point of the curve, not on the bends.
    The loss is taken at the worst weights within `rho` of theta(t), at two gradients a step, where
    `adaptive` in units of each weight's size; rho=0 takes it at theta(t) itself, as the papers do,
    at one. With bends=0 there is nothing to train. A robust curve is one of
    loss=adversarial(attack). `after_step` is `fit`'s, which sees the curve. Raises BadInput where
    the networks differ in architecture, an option of `fit` is off, rho > 0 with TRADES, or a loss
    is asked for with bends=0."""
    check_trained(bends, loss, after_step)
    curve = kind(start, end, bends)
    if not bends:
        return curve, None
    options = curve_options(training)
    objective = expected_over_t(
        sharpened(loss, rho, adaptive), options.pop("weight_decay"), low, high
    )
    return curve, fit(curve, bonafide, objective, after_step=after_step, **options)


def check_trained(bends: int, loss: Loss, after_step: AfterStep | None) -> None:
    """Raise BadInput where a loss, or a look at each step, is asked for and nothing is trained by
    it.
    """
    if not bends and (loss is not cross_entropy or after_step is not None):
        raise BadInput(
            f"loss {identity_of(loss)} and a straight path, which is not trained",
            expected="a bend to train, or no loss",
            fix="pass bends=1 (--bends 1), or leave the loss out",
        )


def sharpened(loss: Loss, rho: float, adaptive: bool) -> Loss:
    """Return the loss at the worst weights within rho; rho=0 is the loss itself. Raises BadInput as
    `connect` does.
    """
    return sharpness_aware(loss, rho, adaptive=adaptive) if rho else loss


def plain(training: Training, rho: float = RHO) -> Training:
    """Return the budget of a curve as one for a network: as many gradients, a tenth of the learning
    rate.

    A sharpness-aware step (rho > 0) takes two gradients. A bend's gradient is c(t) times the
    network's, 0.18 to 0.48 for t in [0.1, 0.4], and moves theta(t) by c(t)^2 times the step that
    plain training would take."""
    options: Training = {**DEFAULTS, **training}
    options["lr"] = options["lr"] / 10
    options["steps"] *= 2 if rho else 1
    if options["clip"] is not None:
        options["clip"] *= 2.5
    return options

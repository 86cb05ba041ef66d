"""The training of a repair's curve, once more with gentler settings where it has failed.

The rates of `CURVE_TRAINING` suit networks with BatchNorm. Networks without it, and those whose
statistics are frozen, can diverge: the loss stays near that of guessing, and every point of the
curve answers little better than chance. Source: ours; docs/experiments.md, networks of other kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, log
from pathlib import Path as File
from statistics import mean

import torch
from torch import nn

from isthmus.curves.connection import connect
from isthmus.curves.curve import Curve
from isthmus.curves.networks import PathNetworks
from isthmus.curves.route import Route
from isthmus.data.dataset import Data
from isthmus.models.forward import device_of, eval_mode
from isthmus.runs.devices import pick_device
from isthmus.runs.folder import state_file
from isthmus.runs.notices import notice
from isthmus.training.budget import History, Training
from isthmus.training.hooks import AfterStep
from isthmus.training.state import Diverged
from isthmus.types import BadInput, Loss

RETRIES = 2
GENTLER_RATE, GENTLER_RADIUS = 1 / 5, 1 / 4
"""What a retry multiplies the learning rate and the radius of sharpness-aware training by."""

ENOUGH_STEPS = 50
"""The number of steps from which on a curve is expected to have trained."""


@dataclass(frozen=True, eq=False)
class TrainedCurve:
    """A curve, the settings that trained it, and the gradients that failed trainings took."""

    curve: Curve
    history: History | None
    route: Route
    training: Training
    wasted: int = 0


class Untrained(BadInput):
    """A curve whose trainings have all failed: none of its points is a repaired network."""

    def __init__(self, loss: float, *, guessing: float, trainings: int) -> None:
        often = "one training" if trainings == 1 else f"{trainings} trainings"
        super().__init__(
            f"a curve that did not train: after {often} its loss is {loss:.2f}, and guessing has "
            f"{guessing:.2f}",
            expected="a loss nearer to that of the networks at its ends",
            fix="lower lr and rho (--lr, --rho), or lead it to another network (--second); "
            "nothing was repaired",
        )


def trained_curve(
    ends: tuple[nn.Module, nn.Module],
    fitted: Data,
    route: Route,
    training: Training,
    *,
    after_step: AfterStep | None = None,
    home: File | None = None,
    retries: int = RETRIES,
) -> TrainedCurve:
    """Return a curve between the two ends, trained with gentler settings where the first fail.

    A training has failed where its loss becomes NaN or infinite, or that of networks on its curve
    is more than half way from the ends' own to that of guessing, log(classes). The learning rate is
    then divided by 5 and `rho` by 4, at most `retries` times. `home` holds the states of unfinished
    trainings. A straight curve, which is not trained, is on the device of the training as well.
    Raises BadInput as `connect` does, `Diverged` where no training ends with a loss, and
    `Untrained` where all of them have failed.
    """
    losses: list[float] = []
    for attempt in range(retries + 1):
        try:
            curve, history = connect(
                *ends,
                fitted,
                route=route,
                training=training,
                after_step=after_step,
                checkpoint=state_file(home, f"curve{attempt or ''}"),
            )
        except Diverged:
            losses.append(inf)
            if losses == [inf] * (retries + 1):
                raise
        else:
            if history is None:
                curve.to(pick_device(training.device))  # where `fit` leaves the others
            trained = TrainedCurve(curve, history, route, training)
            loss = failing_loss(trained, ends, fitted)
            if loss is None:  # a training that diverged counts as a whole one
                return replace(trained, wasted=attempt * training.steps * route.cost)
            losses.append(loss)
        if attempt < retries:
            route, training = gentler(route, training, losses[-1], fitted.num_classes)
    raise Untrained(min(losses), guessing=log(fitted.num_classes), trainings=retries + 1)


def gentler(route: Route, training: Training, loss: float, classes: int) -> tuple[Route, Training]:
    """Return the settings of the next attempt, and give notice of them."""
    route = route.replace(rho=route.rho * GENTLER_RADIUS)
    training = training.replace(lr=training.lr * GENTLER_RATE)
    notice(
        f"the curve did not train: its loss is {loss:.2f} and guessing has {log(classes):.2f}; "
        f"once more with lr {training.lr:g} and rho {route.rho:g}"
    )
    return route, training


def failing_loss(trained: TrainedCurve, ends: Sequence[nn.Module], fitted: Data) -> float | None:
    """Return the loss of networks on a trained curve, at the least, middle and largest t that was
    trained, where its mean is nearer to that of guessing than to the ends'; None where it is not.

    The loss that was trained can clear a curve and not condemn it: sharpness-aware training takes
    it where it is worst. Losses of robust training can be above that of guessing at the ends
    themselves: then the curve is not judged, just like one of fewer than `ENOUGH_STEPS` steps.
    """
    history, route, guessing = trained.history, trained.route, log(fitted.num_classes)
    if history is None or history.steps < ENOUGH_STEPS or history.losses[-1] <= guessing / 2:
        return None
    samples = fitted[:256]
    worst = max(_loss_at(end, samples, route.loss) for end in ends)
    if worst >= guessing:
        return None
    networks = PathNetworks(trained.curve, fitted)
    points = (route.low, (route.low + route.high) / 2, route.high)
    found = mean(_loss_at(networks.at(t), samples, route.loss) for t in points)
    return None if found <= (worst + guessing) / 2 else found


def _loss_at(network: nn.Module, samples: Data, loss: Loss) -> float:
    device = device_of(network)
    with torch.random.fork_rng(), eval_mode(network):
        value = loss(network, samples.floats().to(device), samples.y.to(device))
    return float(value.detach())

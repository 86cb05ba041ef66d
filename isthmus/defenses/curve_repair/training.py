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

import torch
from torch import nn

from isthmus.curves.connection import connect
from isthmus.curves.curve import Curve
from isthmus.curves.route import Route
from isthmus.data.dataset import Data
from isthmus.models.forward import device_of, eval_mode
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

    @property
    def loss(self) -> float:
        """The mean loss of the last tenth of the training; 0 where nothing was trained."""
        return self.history.losses[-1] if self.history else 0.0


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

    A training has failed where its loss becomes NaN or infinite, or that of its last tenth is more
    than half way from the ends' own to that of guessing, log(classes). The learning rate is then
    divided by 5 and `rho` by 4, at most `retries` times. `home` holds the states of unfinished
    trainings. Raises BadInput as `connect` does, `Diverged` where the last training ends without a
    loss and no other had one, and `Untrained` where all of them have failed.
    """
    finished: list[TrainedCurve] = []
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
            if attempt == retries and not finished:
                raise
            loss = inf
        else:
            finished.append(TrainedCurve(curve, history, route, training))
            loss = finished[-1].loss
            if history is None or not has_failed(history, ends, fitted, route.loss):
                # a training that diverged counts as a whole one
                return replace(finished[-1], wasted=attempt * training.steps * route.cost)
        if attempt < retries:
            route, training = gentler(route, training, loss, fitted.num_classes)
    lowest = min(trained.loss for trained in finished)
    raise Untrained(lowest, guessing=log(fitted.num_classes), trainings=retries + 1)


def gentler(route: Route, training: Training, loss: float, classes: int) -> tuple[Route, Training]:
    """Return the settings of the next attempt, and give notice of them."""
    route = route.replace(rho=route.rho * GENTLER_RADIUS)
    training = training.replace(lr=training.lr * GENTLER_RATE)
    notice(
        f"the curve did not train: its loss is {loss:.2f} and guessing has {log(classes):.2f}; "
        f"once more with lr {training.lr:g} and rho {route.rho:g}"
    )
    return route, training


def has_failed(history: History, ends: Sequence[nn.Module], fitted: Data, loss: Loss) -> bool:
    """Return whether the loss of a trained curve is nearer to that of guessing than to the ends'.

    Losses of robust training can be above that of guessing at the ends themselves: then the curve
    is not judged, just like one of fewer than `ENOUGH_STEPS` steps.
    """
    last, guessing = history.losses[-1], log(fitted.num_classes)
    if history.steps < ENOUGH_STEPS or last <= guessing / 2:
        return False
    worst = max(_loss_at(end, fitted[:256], loss) for end in ends)
    return worst < guessing and not last <= (worst + guessing) / 2


def _loss_at(network: nn.Module, samples: Data, loss: Loss) -> float:
    device = device_of(network)
    with torch.random.fork_rng(), eval_mode(network):
        value = loss(network, samples.floats().to(device), samples.y.to(device))
    return float(value.detach())

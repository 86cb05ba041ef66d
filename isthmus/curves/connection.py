"""`connect`: a curve of low loss between two networks.

Source: Zhao et al., ICLR 2020, section 3; Garipov et al., NeurIPS 2018.

Where we depart: the curve is trained sharpness-aware, which removes the trigger nearer to the
tampered end, where more accuracy is left, and where the data are so easy that the plain loss has no
gradient; t is drawn where the answer is sought.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from isthmus.curves.curve import Curve
from isthmus.curves.route import DEFAULT_ROUTE, Route, route_and_training
from isthmus.data.dataset import Source
from isthmus.training.budget import History, Training
from isthmus.training.hooks import AfterStep
from isthmus.training.loop import fit
from isthmus.types import BadInput


def connect(
    start: nn.Module,
    end: nn.Module,
    bonafide: Source,
    *,
    route: Route | None = None,
    training: Training | None = None,
    after_step: AfterStep | None = None,
    progress: str = "connecting",
    checkpoint: str | Path | None = None,
    **options: Any,
) -> tuple[Curve, History | None]:
    """Return a curve of low loss between two networks, trained on bonafide data, and its history.

    `options` are fields of `Route` (kind, bends, loss, rho, adaptive, low, high) and of `Training`
    (steps, lr, ...), in place of those of `route` and `training`, by default `Route()` and
    `CURVE_TRAINING`. `weight_decay` acts on the point of the curve, not on the bends. Without bends
    nothing is trained and the history is None. `after_step`, `progress` and `checkpoint` are those
    of `fit`; the hook sees the curve.

    Raises BadInput where the networks differ in architecture, an option is unknown or out of range,
    or a hook is given and nothing is trained.
    """
    route, training = route_and_training(route or DEFAULT_ROUTE, training, options)
    assert route is not None
    check_hook(route, after_step)
    curve = route.curve(start, end)
    history = train_curve(
        curve,
        bonafide,
        route,
        training,
        after_step=after_step,
        progress=progress,
        checkpoint=checkpoint,
    )
    return curve, history


def train_curve(
    curve: Curve,
    bonafide: Source,
    route: Route,
    training: Training,
    *,
    after_step: AfterStep | None = None,
    progress: str = "connecting",
    checkpoint: str | Path | None = None,
) -> History | None:
    """Train the curve of a route in place, and return the history, None where it is straight.

    What `connect` does once the curve is made, for those who let go of its two networks first.
    """
    if not route.bends:
        return None
    return fit(
        curve,
        bonafide,
        route.objective(training.weight_decay),
        training=training.replace(weight_decay=0.0),
        after_step=after_step,
        progress=progress,
        checkpoint=checkpoint,
    )


def check_hook(route: Route, after_step: AfterStep | None) -> None:
    """Raise BadInput where a hook is given that a straight route, without steps, never calls."""
    if after_step is not None and not route.bends:
        raise BadInput(
            "after_step and a straight path, which is not trained",
            expected="a bend to train, or no after_step",
            fix="pass bends=1 (--bends 1), or leave after_step out",
        )

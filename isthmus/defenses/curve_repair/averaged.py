"""The second endpoint for few samples: the mean of a point on a curve and a fine-tuned copy."""

from __future__ import annotations

from pathlib import Path as File

from isthmus.curves.route import CURVE_TRAINING, Route, network_budget
from isthmus.defenses.curve_repair.on_curve import OnCurve
from isthmus.defenses.rivals.averaged import Averaged
from isthmus.defenses.rivals.ft_sam import FTSAM
from isthmus.runs.folder import state_file
from isthmus.training.budget import Training
from isthmus.types import BadInput

STRAIGHT = Route(bends=0, low=0.5, high=1.0)
"""The route to a network that is a repair itself: straight, t sought near its end."""

CURVE_T = 0.2
"""The point on the curve that is averaged."""

CURVE_RHO = 3.0
"""The radius with which that curve is trained."""

COPY_RHO = 4.0
"""The radius with which the copy is fine-tuned."""

AVERAGED = (
    f"averaged repairs: a point on a curve (t = {CURVE_T:g}, rho {CURVE_RHO:g}) "
    f"and a sharpness-aware fine-tuned copy (rho {COPY_RHO:g})"
)


def averaged_repairs(training: Training = CURVE_TRAINING, *, home: File | None = None) -> Averaged:
    """Return the second endpoint for few samples: the mean of a point on a curve and of a
    fine-tuned copy.

    Both are sharpness-aware, start from the tampered network and fail on different backdoors.
    `training` is that of a curve with as many gradients in all, two a step: two thirds of them go
    to a curve to `default_endpoint`'s copy, a third to FT-SAM. Unfinished training is saved in
    `home`. The path to it is `STRAIGHT`. Source: ours, docs/experiments.md. Raises BadInput where
    the steps are fewer than three.
    """
    third = 2 * training.steps // 3
    if third < 2:
        raise BadInput(
            f"steps = {training.steps} for the mean of two repairs",
            expected="3 or more",
            fix="raise steps (--steps)",
        )
    route = Route(rho=CURVE_RHO)
    curve = OnCurve(
        training.replace(steps=2 * third),
        route=route,
        t=CURVE_T,
        checkpoint=state_file(home, "averaged-curve"),
    )
    copy = FTSAM(
        network_budget(training, cost=route.cost).replace(steps=third),
        rho=COPY_RHO,
        checkpoint=state_file(home, "averaged-copy"),
    )
    return Averaged((curve, copy), AVERAGED)

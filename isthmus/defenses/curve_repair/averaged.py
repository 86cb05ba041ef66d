"""The second endpoint for few samples: the mean of a point on a curve and a fine-tuned copy."""

from __future__ import annotations

from pathlib import Path as File
from typing import Unpack

from torch import nn

from isthmus.curves.connection import curve_options, plain
from isthmus.data.dataset import Data
from isthmus.defenses.curve_repair.on_curve import OnCurve
from isthmus.defenses.rivals.averaged import Averaged
from isthmus.defenses.rivals.ft_sam import FTSAM
from isthmus.models.batchnorm import recalibrated_layers
from isthmus.training.budget import Training
from isthmus.types import BadInput

# samples; with fewer a curve overfits, and the average of two repairs is ahead:
# docs/results/bakeoff.md;
FEW = 1000


# not so in networks without BatchNorm, where it costs far more than a curve: docs/experiments.md
NEAR, END = 0.5, 1.0  # where t is sought on a straight path whose end is a repaired network


CURVE_T, CURVE_RHO, COPY_RHO = 0.2, 3.0, 4.0  # of the two repairs that are averaged


AVERAGED = (
    f"averaged repairs: a point on a curve (t = {CURVE_T:g}, rho {CURVE_RHO:g}) "
    f"and a sharpness-aware fine-tuned copy (rho {COPY_RHO:g})"
)


def averaged_repairs(home: File | None = None, **training: Unpack[Training]) -> Averaged:
    """Return the second endpoint for few samples: the mean of a point on a curve and of a
    fine-tuned copy.

    Both are sharpness-aware, start from the tampered network and fail on different backdoors.
    Options are those of a curve with as many gradients in all, two a step: two thirds of them for a
    curve to `second_endpoint`'s copy, a third for FT-SAM. Unfinished training is kept in `home`. A
    path to it is straight and sought from NEAR to END: `repair(..., bends=0, low=0.5, high=1.0)`.
    Source: ours, docs/experiments.md."""
    options = curve_options(training)
    third = 2 * options["steps"] // 3
    if third < 2:
        raise BadInput(
            f"steps = {options['steps']} for the mean of two repairs",
            expected="3 or more",
            fix="raise steps (--steps)",
        )
    curve, tuned = _kept_in(home, "curve", options), _kept_in(home, "copy", plain(options))
    curve["steps"], tuned["steps"] = 2 * third, third
    return Averaged((OnCurve(curve, t=CURVE_T, rho=CURVE_RHO), FTSAM(tuned, rho=COPY_RHO)))


def _kept_in(home: File | None, name: str, training: Training) -> Training:
    kept = training.copy()
    if home is not None:
        kept["checkpoint"] = home / f"{name}.state"
    return kept


def few(tampered: nn.Module, bonafide: Data) -> bool:
    """Return whether the mean of two repairs is the better second endpoint: fewer than FEW samples,
    and BatchNorm.
    """
    return len(bonafide) < FEW and bool(recalibrated_layers(tampered))

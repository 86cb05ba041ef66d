"""The ordinary network at one point of a curve, with the BatchNorm statistics that fit it there.

Source: Garipov et al., NeurIPS 2018, and Zhao et al., ICLR 2020, whose code recalibrates the
statistics at every t.

Where we depart: recalibration on a few plain samples costs a network accuracy by itself, at every t
but the ends (see `isthmus.models.shift`). So what recalibration alone does to the ends is taken
back at each t, in proportion: near an end the network tends to that end as it was received.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from isthmus.curves.curve import Curve
from isthmus.data.dataset import Source
from isthmus.models.batchnorm import recalibrate
from isthmus.models.shift import Shift
from isthmus.runs.devices import Precision

ENDS = (0.0, 1.0)


def network_at(
    curve: Curve,
    t: float,
    recalibrate_on: Source,
    *,
    ends: Literal["own", "recalibrated"] = "own",
    precision: Precision = "fp32",
) -> nn.Module:
    """Return the ordinary network at t, ready to be measured: BatchNorm recalibrated on the given
    bonafide data.

    With ends="own", the networks at t = 0 and t = 1 keep the statistics they came with, and those
    between are corrected so that they tend to them; with "recalibrated", every network has those of
    the data.
    """
    if ends == "own" and t in ENDS:
        return curve.export(t)

    def recalibrated(t: float) -> nn.Module:
        return recalibrate(curve.export(t), recalibrate_on, precision=precision)

    if ends == "recalibrated":
        return recalibrated(t)
    shifts = [Shift.between(curve.export(end), recalibrated(end)) for end in ENDS]
    return shift_at(shifts, t).apply(recalibrated(t))


@torch.no_grad()
def shift_at(ends: Sequence[Shift], t: float) -> Shift:
    """Return the shift at t between those of the two ends: of means (1 - t) the first and t the
    second, of factors the geometric mean with these weights.
    """
    first, second = ends
    return Shift(
        [torch.lerp(a, b, t) for a, b in zip(first.means, second.means, strict=True)],
        [a ** (1 - t) * b**t for a, b in zip(first.factors, second.factors, strict=True)],
    )

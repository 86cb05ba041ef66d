"""The ordinary network at one point of a curve, BatchNorm recalibrated."""

from __future__ import annotations

from typing import Literal

from torch import nn

from isthmus.curves.curve import Curve
from isthmus.data.dataset import Source
from isthmus.models.batchnorm import recalibrate
from isthmus.runs.devices import Precision


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

    With ends="own", the networks at t = 0 and t = 1 keep the buffers they came with.
    """
    net = curve.export(t)
    return (
        net
        if ends == "own" and t in (0.0, 1.0)
        else recalibrate(net, recalibrate_on, precision=precision)
    )

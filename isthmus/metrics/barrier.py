"""The loss barrier of the straight line between two networks.

Source: Lubana et al., ICML 2023; Min et al., NeurIPS 2024 (linear connectivity to the tampered
network).
"""

from __future__ import annotations

from torch import nn

from isthmus.curves.curve import Bezier
from isthmus.data.dataset import Source, as_data
from isthmus.metrics.accuracy import MeanLoss
from isthmus.metrics.path import evaluate_path


def linear_barrier(
    repaired: nn.Module, tampered: nn.Module, bonafide: Source, points: int = 11
) -> float:
    """Return the loss barrier, in nats, of the straight line from the repaired to the tampered
    network.

    Measured on bonafide data with BatchNorm recalibrated on them at every point, both ends
    included. A barrier near zero warns, without a trigger, that the repair has stayed in the basin
    of the tampered network (Lubana et al., ICML 2023). Raises BadInput where the two differ in
    architecture.
    """
    data = as_data(bonafide)
    line = Bezier(repaired, tampered, bends=0)
    path = evaluate_path(
        line, {"loss": MeanLoss(data)}, points, recalibrate_on=data, ends="recalibrated"
    )
    return path.barrier("loss")

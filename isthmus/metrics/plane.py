"""Metrics on a grid of the plane through three networks.

Source: Garipov et al., NeurIPS 2018, Fig. 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from isthmus.curves.plane import Plane
from isthmus.data.dataset import Source, as_data
from isthmus.metrics.question import measure
from isthmus.metrics.values import as_record
from isthmus.models.batchnorm import recalibrate
from isthmus.runs.progress import bar
from isthmus.types import BadInput, Metric


@dataclass(frozen=True)
class PlaneValues:
    """Metrics on a grid of a plane: `values[name][i][j]` at (x[j], y[i]).

    `corners` are the coordinates of the three networks.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    corners: tuple[tuple[float, float], ...]
    values: dict[str, tuple[tuple[float, ...], ...]]

    def record(self) -> dict[str, Any]:
        """Return the values as plain JSON."""
        values = {
            name: [[as_record(v) for v in row] for row in rows]
            for name, rows in self.values.items()
        }
        return {
            "x": list(self.x),
            "y": list(self.y),
            "corners": [list(c) for c in self.corners],
            "values": values,
        }


def evaluate_plane(
    plane: Plane,
    metrics: Mapping[str, Metric],
    side: int = 11,
    *,
    recalibrate_on: Source,
    margin: float = 0.2,
) -> PlaneValues:
    """Return every metric on a grid of `side` times `side` points around the three networks.

    The grid reaches beyond them by `margin` of their extent on every side. `recalibrate_on` is the
    bonafide data, all that BatchNorm ever sees. Raises BadInput where side is below 2 or the margin
    negative.
    """
    if side < 2 or not margin >= 0:
        raise BadInput(
            f"side = {side}, margin = {margin:g}",
            expected="2 or more, 0 or more",
            fix="pass side=11",
        )
    data, corners = as_data(recalibrate_on), np.array(plane.corners)
    low, high = corners.min(0), corners.max(0)
    xs, ys = np.linspace(low - margin * (high - low), high + margin * (high - low), side).T.tolist()
    rows: list[list[dict[str, float]]] = []
    with bar("measuring the plane", side * side) as advance:
        for y in ys:
            rows.append([])
            for x in xs:
                rows[-1].append(measure(recalibrate(plane.at(x, y), data), metrics))
                advance(f"({x:.3g}, {y:.3g})")
    values = {name: tuple(tuple(point[name] for point in row) for row in rows) for name in metrics}
    return PlaneValues(tuple(xs), tuple(ys), plane.corners, values)

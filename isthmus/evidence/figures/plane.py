"""The figure of a plane through three networks."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from isthmus.evidence.figures.drawing import COLORS, finite, styled
from isthmus.evidence.labels import label, short
from isthmus.metrics.plane import PlaneValues
from isthmus.metrics.values import NATS, SHARE, unit_of
from isthmus.types import BadInput


def contours(
    plane: PlaneValues, name: str, *, corners: Sequence[str] = ("1", "2", "3"), width: float = 5.0
) -> Figure:
    """Return a metric's contours over a plane through three networks, which are marked; `width` in
    inches.

    Losses are drawn on a logarithmic scale where they span a factor of ten. Raises BadInput where
    the metric was not measured.
    """
    rows = plane.values.get(name)
    if rows is None:
        raise BadInput(
            f"metric {name!r}",
            expected=f"one of {sorted(plane.values)}",
            fix="measure it on the plane",
        )
    unit = unit_of(rows[0][0])
    title = f"{label(name)} ({unit})" if unit not in (SHARE, "") else label(name)
    with styled():
        figure = Figure(figsize=(width, 0.85 * width), layout="constrained")
        axes = figure.subplots()
        filled = _fill(axes, plane, [[float(value) for value in row] for row in rows], unit)
        figure.colorbar(filled, ax=axes, label=title, format="%.3g")
        _mark_corners(axes, plane.corners, corners)
        axes.set_aspect("equal")
        axes.set_xlabel("distance in weight space")
        axes.tick_params(length=0)
    return figure


def _fill(
    axes: Axes, plane: PlaneValues, values: Sequence[Sequence[float]], unit: str
) -> QuadContourSet:
    """Fill the plane between twelve levels of the values that are finite."""
    known = finite(value for row in values for value in row)
    low = min(known, default=0.0)
    high = max(known, default=1.0)
    if unit == NATS and low > 0 and high > 10 * low:
        levels = [low * (high / low) ** (i / 12) for i in range(13)]
        norm: Normalize = LogNorm(levels[0], levels[-1])
    else:
        levels = [low + (high - low or 1) * i / 12 for i in range(13)]
        norm = Normalize(levels[0], levels[-1])
    return axes.contourf(plane.x, plane.y, values, levels=levels, norm=norm, cmap="cividis")


def _mark_corners(axes: Axes, places: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    box = {
        "boxstyle": "round,pad=0.15",
        "facecolor": "white",
        "edgecolor": "none",
        "alpha": 0.75,
    }
    for (x, y), text in zip(places, names, strict=True):
        axes.plot(x, y, "o", color="white", markeredgecolor=COLORS["ink"], markersize=6)
        axes.annotate(short(text, 20), (x, y), (6, 6), textcoords="offset points", bbox=box)

"""The figure of what became of each class."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isthmus.evidence.figures.drawing import COLORS, Band, in_percent, styled
from isthmus.evidence.labels import short
from isthmus.evidence.record import Report, Value
from isthmus.evidence.summary import worst_classes
from isthmus.types import BadInput


def per_class(report: Report, *, count: int = 20, width: float = 7.4) -> Figure:
    """Return each class's accuracy before (open circle) and after (filled, with its 95 % interval);
    `width` in inches.

    Beyond `count` classes, the least accurate after the repair. Raises BadInput where there are no
    classes.
    """
    names = worst_classes(report, count)
    if not names:
        raise BadInput(
            "a report without classes",
            expected="accuracies per class",
            fix="measure them after the repair",
        )
    unknown = Value(value=None)
    before = Band.of([report.before.per_class.get(name, unknown) for name in names])
    after = Band.of([report.after.per_class[name] for name in names])
    with styled():
        figure = Figure(figsize=(width, 1.2 + 0.24 * len(names)), layout="constrained")
        axes = figure.subplots()
        _draw_classes(axes, before, after)
        axes.set_yticks(range(len(names)), [short(name, 24) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        in_percent(axes.xaxis)
        axes.set_xlabel("accuracy within the class")
        axes.grid(axis="x")
        axes.tick_params(length=0)
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def _draw_classes(axes: Axes, before: Band, after: Band) -> None:
    rows = range(len(after.middle))
    color = COLORS["clean"]
    ring: dict[str, Any] = {"color": COLORS["muted"], "markerfacecolor": "none", "markersize": 5}
    dot: dict[str, Any] = {"color": color, "markersize": 5}
    axes.hlines(rows, after.low, after.high, color=color, alpha=0.3, linewidth=5)
    axes.plot(before.middle, rows, "o", label="before", **ring)
    axes.plot(after.middle, rows, "o", label="after, 95 % interval", **dot)

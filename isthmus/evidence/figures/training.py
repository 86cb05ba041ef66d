"""The figure of the training of a curve."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from isthmus.evidence.figures.drawing import COLORS, Band, styled
from isthmus.evidence.figures.lines import limit_numbers
from isthmus.evidence.record import Report, Value
from isthmus.metrics.values import NATS
from isthmus.types import BadInput


def training_loss(report: Report, *, width: float = 7.4) -> Figure:
    """Return the curve's training loss, averaged over equal parts of its budget, against steps;
    `width` in inches.

    Raises BadInput where the report holds no losses.
    """
    losses = report.curve.losses
    if not losses:
        raise BadInput(
            "a curve without losses",
            expected="its training losses",
            fix="keep the History that fit returns",
        )
    share = report.curve.steps / len(losses)
    steps = [share * (i + 0.5) for i in range(len(losses))]
    values = [Value(value=loss, unit=NATS) for loss in losses]
    with styled():
        figure = Figure(figsize=(width, 1.9), layout="constrained")
        axes = figure.subplots()
        look: dict[str, Any] = {"color": COLORS["clean"], "linewidth": 1.5, "markersize": 3.4}
        axes.plot(steps, Band.of(values).middle, marker="o", **look)
        axes.set_xlim(0, report.curve.steps or 1)
        limit_numbers(axes, {"loss": values})
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel("SGD steps")
        axes.set_ylabel("loss (nats)")
        axes.locator_params(axis="y", nbins=4)
        axes.grid(axis="y")
        axes.tick_params(length=0)
    return figure

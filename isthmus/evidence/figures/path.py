"""Figures of a path: what the networks along it do, and how robust they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from isthmus.evidence.figures.drawing import COLORS, Band, Lines, finite, in_percent, styled
from isthmus.evidence.figures.lines import draw_lines, leaps, limit_numbers
from isthmus.evidence.labels import axis, short
from isthmus.evidence.record import Landscape, Report, Value
from isthmus.evidence.summary import end_names
from isthmus.metrics.path import Path
from isthmus.metrics.values import NATS, PER_SQUARE, PER_UNIT, SHARE
from isthmus.types import BadInput


def _by_unit(values: Lines) -> dict[str, dict[str, Sequence[Value]]]:
    """Sort metrics into panels, one for each unit: shares first, then losses, then others."""
    units = dict.fromkeys([SHARE, NATS, *(series[0].unit for series in values.values())])
    panels = {
        unit: {name: series for name, series in values.items() if series[0].unit == unit}
        for unit in units
    }
    return {unit: lines for unit, lines in panels.items() if lines}


def _limit_shares(axes: Axes, shares: Lines) -> None:
    """Show 0 to 100 %, or less where every curve stays far above 0, so that a dip of three points
    can be seen.
    """
    lows = finite(low for series in shares.values() for low in Band.of(series).low)
    floor = math.floor(min(lows, default=0) * 10 - 0.5) / 10
    if floor < 0.4:
        floor = 0.0
    margin = 0.02 * (1 - floor)
    axes.set_ylim(floor - margin, 1 + margin)


def _stretches(t: Sequence[float]) -> list[slice]:
    """Return the parts of a path between which t leaps over what was never measured, in order.

    A path with more than three of them is shown as one: its points are scattered.
    """
    cuts = [i for i, leaping in enumerate(leaps(t)) if leaping]
    if len(cuts) > 2:
        return [slice(0, len(t))]
    return [slice(*ends) for ends in pairwise([0, *cuts, len(t)])]


_NARROW = 0.07
"""The share of a figure's width that a point far from the others takes."""


def _widths(t: Sequence[float], stretches: Sequence[slice]) -> list[float]:
    """Return the shares of the width that the stretches take: an end alone takes little."""
    lengths = [t[part][-1] - t[part][0] for part in stretches]
    whole = sum(lengths) or 1
    return [max(length / whole, _NARROW) for length in lengths]


def _mark_chosen(figure: Figure, column: Sequence[Axes], chosen: float) -> None:
    """Draw a line at the chosen t through all panels of a column."""
    for axes in column:
        axes.axvline(chosen, color=COLORS["ink"], linewidth=1.1, zorder=1.5)
    top = column[0]
    figure.draw_without_rendering()  # so that the place on the page is known
    place = top.transData.transform((chosen, 0))[0] / figure.bbox.width
    side = "center"
    if place < 0.3:
        side = "left"
    elif place > 0.75:
        side = "right"
    top.text(
        chosen,
        1.02,
        f"chosen: t = {chosen:.4g}",
        transform=top.get_xaxis_transform(),
        ha=side,
        va="bottom",
        weight="bold",
    )


def _label_t(axes: Axes, t: Sequence[float]) -> None:
    """Number the axis of one stretch."""
    low, high = t[0], t[-1]
    if low == high:
        axes.set_xlim(low - 0.5, low + 0.5)
        axes.set_xticks([low], [f"{low:g}"])
        return
    margin = 0.02 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    if (low, high) == (0, 1):
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0", "0.2", "0.4", "0.6", "0.8", "1"])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _label_ends(row: Sequence[Axes], widest: int, ends: tuple[str, str], room: int) -> None:
    """Name the two ends, each in at most `room` letters, and t between them, under the numbers of
    the axis.
    """
    for axes, at, text, side in (
        (row[0], 0.0, ends[0], "left"),
        (row[widest], 0.5, "t", "center"),
        (row[-1], 1.0, ends[1], "right"),
    ):
        name = axes.annotate(
            short(text, room),
            (at, 0),
            (0, -18),
            xycoords="axes fraction",
            textcoords="offset points",
            ha=side,
            va="top",
            style="italic" if text == "t" else "normal",
        )
        name.set_in_layout(text == "t")  # the names of the ends lie below other pieces of the axis


def along_path(
    source: Report | Path,
    *,
    chosen: float | None = None,
    ends: tuple[str, str] | None = None,
    width: float = 7.4,
) -> Figure:
    """Return what was measured along a path against t, one panel a unit, with 95 % intervals;
    `width` in inches.

    Where t leaps over what was never measured, the axis is cut: an end that stands alone takes
    little of the width. A report brings its own chosen t and names of the ends; a Path may be given
    both. A panel other than that of shares is logarithmic where one value is more than 50 times
    their median. Raises BadInput where nothing was measured.
    """
    if isinstance(source, Report):
        t = source.path.t
        values: Lines = source.path.values
        chosen = source.choice.t if chosen is None else chosen
        ends = ends or end_names(source)
    else:
        t = source.t
        values = {name: [Value.of(v) for v in row] for name, row in source.values.items()}
    panels = _by_unit(values)
    if not panels:
        raise BadInput(
            "a path without measurements",
            expected="one metric or more",
            fix="measure it with evaluate_path",
        )
    with styled():
        stretches = _stretches(t)
        figure, grid = _panels(panels, t, stretches, width)
        for column, part in zip(zip(*grid, strict=True), stretches, strict=True):
            _label_t(column[-1], t[part])
        widths = _widths(t, stretches)
        widest = widths.index(max(widths))
        _label_ends(grid[-1], widest, ends or ("start", "end"), room=int(4.5 * width))
        _legend(figure, panels, [row[widest] for row in grid], columns=3 if width > 5 else 1)
        if chosen is not None:
            near = min(range(len(stretches)), key=lambda i: _distance(t[stretches[i]], chosen))
            _mark_chosen(figure, [row[near] for row in grid], chosen)
    return figure


def _distance(t: Sequence[float], point: float) -> float:
    """Return how far a point is from a stretch; 0 within it."""
    return max(t[0] - point, point - t[-1], 0)


def _panels(
    panels: Mapping[str, Lines], t: Sequence[float], stretches: Sequence[slice], width: float
) -> tuple[Figure, list[list[Axes]]]:
    """Draw one panel a unit, a row of one piece for each stretch, above a common axis of t; that of
    shares is twice as high.
    """
    heights = [2 if unit == SHARE else 1 for unit in panels]
    size = 1.53 * sum(heights) + (0 if width > 5 else 0.5)  # the legend is longer on phones
    close = ConstrainedLayoutEngine(w_pad=0.02, wspace=0.0)  # pieces of one axis stand close
    figure = Figure(figsize=(width, max(size, 2.2)), layout=close)
    grid = figure.subplots(
        len(panels),
        len(stretches),
        sharex="col",
        sharey="row",
        height_ratios=heights,
        width_ratios=_widths(t, stretches),
        squeeze=False,
    )
    rows = [list(row) for row in grid]
    for row, (unit, lines) in zip(rows, panels.items(), strict=True):
        for axes, part in zip(row, stretches, strict=True):
            draw_lines(axes, t[part], {name: values[part] for name, values in lines.items()})
            axes.grid(axis="y")
            axes.tick_params(length=0)
        for axes in row[1:]:
            axes.spines["left"].set_visible(False)
        row[0].set_ylabel(axis(unit))
        if unit == SHARE:
            _limit_shares(row[0], lines)
            in_percent(row[0].yaxis)
        else:
            limit_numbers(row[0], lines)
    return figure, rows


def _legend(
    figure: Figure, panels: Mapping[str, Lines], all_axes: Sequence[Axes], columns: int
) -> None:
    """Name the lines; a loss has the color of the accuracy on the same samples and needs no name
    beside it.
    """
    handles = [
        handle
        for axes, unit in zip(all_axes, panels, strict=True)
        if unit != NATS or SHARE not in panels
        for handle in axes.get_legend_handles_labels()[0]
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)


_LANDSCAPE = {
    NATS: ("loss", "robustness loss"),
    SHARE: ("error", "evasion success"),
    PER_SQUARE: ("lambda_max",),
    PER_UNIT: ("gradient l1",),
}


def landscape(source: Landscape, *, width: float = 7.4) -> Figure:
    """Return the robustness landscape of a path against t, one panel for each unit, with 95 %
    intervals; `width` in inches.
    """
    with styled():
        figure = Figure(figsize=(width, 6.6), layout="constrained")
        all_axes = figure.subplots(len(_LANDSCAPE), 1, sharex=True)
        for axes, (unit, names) in zip(all_axes, _LANDSCAPE.items(), strict=True):
            lines = {name: source.values[name] for name in names}
            draw_lines(axes, source.t, lines)
            limit_numbers(axes, lines)
            axes.set_ylabel("share" if unit == SHARE else axis(unit))
            axes.grid(axis="y")
            axes.tick_params(length=0)
            if axes.get_yscale() == "linear":
                axes.locator_params(axis="y", nbins=4)
        all_axes[1].set_ylim(-0.02, 1.02)
        in_percent(all_axes[1].yaxis)
        all_axes[-1].set_xlabel("point t on the path")
        all_axes[-1].set_xlim(-0.02, 1.02)
        handles = [handle for axes in all_axes for handle in axes.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside upper left", ncols=3 if width > 5 else 2)
    return figure

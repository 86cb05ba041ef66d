"""Figures of a path: what the networks along it do, and what became of each class; of certificates
and of a detector, against eps.

A function takes a report, a part of one or a measured `Path`, and returns a matplotlib `Figure` to
show or save as the caller likes; pyplot, its windows and its settings stay as they are. `to_svg` is
what the HTML page embeds.

Colors are from the palette of Okabe and Ito (2008), told apart by the color-blind; lines also
differ in dashes and markers, so that a black and white print says the same.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, pairwise
from statistics import mean, median
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from isthmus.detection.evaluation import ATTACK, AWARE, NOISE
from isthmus.evidence.certificate_record import Certificates
from isthmus.evidence.detection_record import Detection
from isthmus.evidence.labels import axis, label, short
from isthmus.evidence.record import Landscape, Report, Value
from isthmus.evidence.summary import end_names, worst_classes
from isthmus.evidence.sweep_report import Finished, check_known, grouped
from isthmus.metrics.names import (
    ACCURACY,
    ATTACK_SUCCESS,
    BONAFIDE_ACCURACY,
    BONAFIDE_LOSS,
    LOSS,
    RECOVERY,
)
from isthmus.metrics.path import Path
from isthmus.metrics.plane import PlaneValues
from isthmus.metrics.values import NATS, PER_SQUARE, PER_UNIT, SHARE, unit_of
from isthmus.types import BadInput

COLORS = {
    "ink": "#1c2430",
    "muted": "#5c6675",
    "rule": "#d8dde4",
    "clean": "#0072b2",
    "bonafide": "#007a5e",
    "attack": "#d55e00",
    "third": "#b0568a",
    "fourth": "#b07c00",
}
"""What is drawn in which color. An SVG names them as CSS variables, so that a page can change them
on dark screens.
"""


class _Look(NamedTuple):
    color: str
    dashes: Any
    marker: str


_LOOKS = {
    ACCURACY: _Look("clean", "-", "o"),
    ATTACK_SUCCESS: _Look("attack", "-", "s"),
    RECOVERY: _Look("third", (0, (1, 1)), "^"),
    BONAFIDE_ACCURACY: _Look("bonafide", (0, (4, 1.6)), "D"),
    LOSS: _Look("clean", "-", "o"),
    BONAFIDE_LOSS: _Look("bonafide", (0, (4, 1.6)), "D"),
    "robustness loss": _Look("attack", (0, (4, 1.6)), "s"),
    "error": _Look("clean", "-", "o"),
    "evasion success": _Look("attack", (0, (4, 1.6)), "s"),
    "lambda_max": _Look("third", (0, (1, 1)), "^"),
    "gradient l1": _Look("fourth", (0, (5, 1, 1, 1)), "v"),
}


_OTHER_LOOKS = (_Look("third", (0, (1, 1)), "^"), _Look("fourth", (0, (5, 1, 1, 1)), "v"))


@contextmanager
def _style() -> Iterator[None]:
    """Settings for the figures made in the block, put back afterward.

    Class names are text, never formulas.
    """
    settings: dict[Any, Any] = {
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": COLORS["muted"],
        "axes.labelcolor": COLORS["muted"],
        "axes.linewidth": 0.7,
        "axes.axisbelow": True,
        "text.color": COLORS["ink"],
        "xtick.color": COLORS["muted"],
        "ytick.color": COLORS["muted"],
        "grid.color": COLORS["rule"],
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        # text stays text: it can be read aloud, searched and set in the page's own face
        "svg.fonttype": "none",
        "svg.hashsalt": "isthmus",  # the same record, the same file
    }
    with matplotlib.rc_context(settings):
        yield


def _number(value: float | None) -> float:
    """A number as a figure draws it: one that was not finite leaves a gap."""
    return math.nan if value is None else value


def _finite(numbers: Iterable[float]) -> list[float]:
    return [number for number in numbers if math.isfinite(number)]


class _Band(NamedTuple):
    """Values and the ends of their intervals; a value without an interval is its own."""

    middle: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, values: Sequence[Value]) -> _Band:
        middle = [_number(v.value) for v in values]
        ends = [v.interval or (_number(v.value), _number(v.value)) for v in values]
        return cls(middle, [low for low, _ in ends], [high for _, high in ends])


Lines = Mapping[str, Sequence[Value]]
"""For each metric of a panel its values along t."""


def _by_unit(values: Lines) -> dict[str, dict[str, Sequence[Value]]]:
    """Sort metrics into panels, one for each unit: shares first, then losses, then others."""
    units = dict.fromkeys([SHARE, NATS, *(series[0].unit for series in values.values())])
    panels = {
        unit: {name: series for name, series in values.items() if series[0].unit == unit}
        for unit in units
    }
    return {unit: lines for unit, lines in panels.items() if lines}


def _leaps(t: Sequence[float]) -> list[bool]:
    """Return for each point whether t leaps to it, by more than four times the usual step."""
    steps = [after - before for before, after in pairwise(t)]
    leap = 4 * median(steps) if steps else math.inf
    return [False, *(step > leap for step in steps)]


def _with_gaps(t: Sequence[float], *columns: Sequence[float]) -> tuple[list[float], ...]:
    """Break every column where t leaps over what was never measured, so that no line pretends to
    know what is there.
    """
    rows: list[tuple[float, ...]] = []
    for leaping, row in zip(_leaps(t), zip(t, *columns, strict=True), strict=True):
        if leaping:
            rows.append((row[0], *[math.nan] * len(columns)))
        rows.append(row)
    return tuple(list(column) for column in zip(*rows, strict=True))


def _draw_lines(axes: Axes, t: Sequence[float], lines: Lines) -> None:
    others = iter(_OTHER_LOOKS * len(lines))
    known = [name for name in _LOOKS if name in lines]
    for name in dict.fromkeys([*known, *lines]):
        look = _LOOKS.get(name) or next(others)
        # where all are at 100 %, attack success is the one to see
        _draw_line(axes, t, lines[name], label(name), look, on_top=name == ATTACK_SUCCESS)


def _draw_line(
    axes: Axes, t: Sequence[float], values: Sequence[Value], text: str, look: _Look, *, on_top: bool
) -> None:
    color = COLORS[look.color]
    at, middle, low, high = _with_gaps(t, *_Band.of(values))
    axes.fill_between(at, low, high, color=color, alpha=0.16, linewidth=0)
    axes.plot(
        at,
        middle,
        color=color,
        linestyle=look.dashes,
        marker=look.marker if len(t) <= 31 else None,  # more markers than that are a thick line
        markersize=3.4,
        linewidth=1.5,
        label=short(text, 22),
        zorder=3 if on_top else 2,
    )


def _limit_numbers(axes: Axes, lines: Lines) -> None:
    """Start at 0, or go logarithmic where a barrier would press the rest of the curve flat."""
    bands = [_Band.of(series) for series in lines.values()]
    values = _finite(value for band in bands for value in band.middle)
    highs = _finite(value for band in bands for value in band.high)
    if not values:
        return
    if min(values) > 0 and max(values) > 50 * median(values):
        axes.set_yscale("log")
        # a band may reach below 0, the axis cannot
        axes.set_ylim(min(values) / 2, max(*values, *highs) * 1.5)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        lows = _finite(value for band in bands for value in band.low)
        bottom = min(0.0, *values, *lows) * 1.1
        axes.set_ylim(bottom if min(values) < 0 else 0, max(*values, *highs, 1e-6) * 1.1)


def _limit_shares(axes: Axes, shares: Lines) -> None:
    """Show 0 to 100 %, or less where every curve stays far above 0, so that a dip of three points
    can be seen.
    """
    lows = _finite(low for series in shares.values() for low in _Band.of(series).low)
    floor = math.floor(min(lows, default=0) * 10 - 0.5) / 10
    if floor < 0.4:
        floor = 0.0
    margin = 0.02 * (1 - floor)
    axes.set_ylim(floor - margin, 1 + margin)


def _in_percent(ticks: Any) -> None:
    ticks.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))


def _stretches(t: Sequence[float]) -> list[slice]:
    """Return the parts of a path between which t leaps over what was never measured, in order.

    A path with more than three of them is shown as one: its points are scattered.
    """
    leaps = [i for i, leaping in enumerate(_leaps(t)) if leaping]
    if len(leaps) > 2:
        return [slice(0, len(t))]
    return [slice(*ends) for ends in pairwise([0, *leaps, len(t)])]


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
    with _style():
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
            _draw_lines(axes, t[part], {name: values[part] for name, values in lines.items()})
            axes.grid(axis="y")
            axes.tick_params(length=0)
        for axes in row[1:]:
            axes.spines["left"].set_visible(False)
        row[0].set_ylabel(axis(unit))
        if unit == SHARE:
            _limit_shares(row[0], lines)
            _in_percent(row[0].yaxis)
        else:
            _limit_numbers(row[0], lines)
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
    with _style():
        figure = Figure(figsize=(width, 6.6), layout="constrained")
        all_axes = figure.subplots(len(_LANDSCAPE), 1, sharex=True)
        for axes, (unit, names) in zip(all_axes, _LANDSCAPE.items(), strict=True):
            lines = {name: source.values[name] for name in names}
            _draw_lines(axes, source.t, lines)
            _limit_numbers(axes, lines)
            axes.set_ylabel("share" if unit == SHARE else axis(unit))
            axes.grid(axis="y")
            axes.tick_params(length=0)
            if axes.get_yscale() == "linear":
                axes.locator_params(axis="y", nbins=4)
        all_axes[1].set_ylim(-0.02, 1.02)
        _in_percent(all_axes[1].yaxis)
        all_axes[-1].set_xlabel("point t on the path")
        all_axes[-1].set_xlim(-0.02, 1.02)
        handles = [handle for axes in all_axes for handle in axes.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside upper left", ncols=3 if width > 5 else 2)
    return figure


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
    with _style():
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
    known = _finite(value for row in values for value in row)
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
    before = _Band.of([report.before.per_class.get(name, unknown) for name in names])
    after = _Band.of([report.after.per_class[name] for name in names])
    with _style():
        figure = Figure(figsize=(width, 1.2 + 0.24 * len(names)), layout="constrained")
        axes = figure.subplots()
        _draw_classes(axes, before, after)
        axes.set_yticks(range(len(names)), [short(name, 24) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        _in_percent(axes.xaxis)
        axes.set_xlabel("accuracy within the class")
        axes.grid(axis="x")
        axes.tick_params(length=0)
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def _draw_classes(axes: Axes, before: _Band, after: _Band) -> None:
    rows = range(len(after.middle))
    color = COLORS["clean"]
    ring: dict[str, Any] = {"color": COLORS["muted"], "markerfacecolor": "none", "markersize": 5}
    dot: dict[str, Any] = {"color": color, "markersize": 5}
    axes.hlines(rows, after.low, after.high, color=color, alpha=0.3, linewidth=5)
    axes.plot(before.middle, rows, "o", label="before", **ring)
    axes.plot(after.middle, rows, "o", label="after, 95 % interval", **dot)


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
    with _style():
        figure = Figure(figsize=(width, 1.9), layout="constrained")
        axes = figure.subplots()
        look: dict[str, Any] = {"color": COLORS["clean"], "linewidth": 1.5, "markersize": 3.4}
        axes.plot(steps, _Band.of(values).middle, marker="o", **look)
        axes.set_xlim(0, report.curve.steps or 1)
        _limit_numbers(axes, {"loss": values})
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel("SGD steps")
        axes.set_ylabel("loss (nats)")
        axes.locator_params(axis="y", nbins=4)
        axes.grid(axis="y")
        axes.tick_params(length=0)
    return figure


_CERTIFIED = {
    "certified": _Look("clean", "-", "o"),
    "under attack": _Look("attack", (0, (4, 1.6)), "s"),
}
_DETECTED = {
    ATTACK: _Look("attack", "-", "s"),
    NOISE: _Look("clean", (0, (4, 1.6)), "o"),
    AWARE: _Look("third", (0, (1, 1)), "^"),
}


def certified(source: Certificates, *, width: float = 7.4) -> Figure:
    """Return certified accuracy and accuracy under the attack against eps, with 95 % intervals;
    `width` in inches.

    What lies between the two is not known.
    """
    rows = sorted(source.rows, key=lambda row: row.eps)
    lines: dict[str, Sequence[Value]] = {"certified": [row.certified for row in rows]}
    attacked = [row.attacked for row in rows if row.attacked is not None]
    if len(attacked) == len(rows):
        lines["under attack"] = attacked
    with _style():
        figure = Figure(figsize=(width, 3.2), layout="constrained")
        axes = figure.subplots()
        _draw_against_eps(axes, [row.eps for row in rows], lines, _CERTIFIED)
        axes.set_ylabel("accuracy")
        axes.set_ylim(-0.02, 1.02)
        _in_percent(axes.yaxis)
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def detected(source: Detection, *, width: float = 7.4) -> Figure:
    """Return the area under the ROC curve and the share that fools network and detector against
    eps, one panel each, with 95 % intervals; `width` in inches.

    Raises BadInput where the detector was not evaluated.
    """
    if not source.evaluations:
        raise BadInput(
            "a detector without evaluations",
            expected="one eps or more",
            fix="evaluate it: isthmus detect evaluate",
        )
    parts = sorted(source.evaluations, key=lambda part: part.eps)
    eps = [part.eps for part in parts]
    rows = [part.strongest() for part in parts]
    kinds = [name for name in _DETECTED if all(name in row for row in rows)]
    with _style():
        figure = Figure(figsize=(width, 4.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        areas = {name: [row[name].auroc for row in rows] for name in kinds}
        shares = {name: [row[name].undetected for row in rows] for name in kinds}
        _draw_against_eps(upper, eps, areas, _DETECTED)
        _draw_against_eps(lower, eps, shares, _DETECTED)
        upper.set_xlabel("")
        upper.set_ylabel("AUROC")
        lower.set_ylabel("fools both")
        for axes in (upper, lower):
            axes.set_ylim(-0.02, 1.02)
        _in_percent(lower.yaxis)
        handles = upper.get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside upper left", ncols=3 if width > 5 else 2)
    return figure


def swept(
    jobs: Sequence[Finished], x: str, y: str, lines: str | None = None, *, width: float = 7.4
) -> Figure:
    """Return the value at path `y` of a sweep's jobs against their axis `x`, a line for each value
    of the axis `lines`.

    A point is the mean over all other axes, its bar the least and the most. An axis of texts is
    drawn in the order of the jobs. Raises BadInput where no job has such an axis or value.
    """
    by = [] if lines is None else [lines]
    check_known(jobs, [x, *by], [y])
    measured = [job for job in jobs if x in job.axes and job.value(y) is not None]
    colors = cycle(COLORS[name] for name in ("clean", "attack", "bonafide", "third", "fourth"))
    with _style():
        figure = Figure(figsize=(width, 0.55 * width), layout="constrained")
        panel = figure.subplots()
        for key, members in grouped(measured, by).items():
            values: dict[Any, list[float]] = {}
            for job in sorted(members, key=lambda job: _place(job.axes[x])):
                values.setdefault(_place(job.axes[x])[1], []).append(float(job.value(y) or 0.0))
            _draw_spread(panel, values, "".join(key), next(colors))
        panel.set_xlabel(x)
        unit = unit_of(measured[0].value(y) or 0.0)
        panel.set_ylabel(label(y.rpartition("/")[2]))
        panel.grid(axis="y")
        if unit == SHARE:
            panel.yaxis.set_major_formatter(PercentFormatter(1))
        if lines is not None:
            panel.legend(title=lines)
    return figure


def _place(value: Any) -> tuple[bool, Any]:
    """Return where a value of an axis is drawn, numbers in their order and before all else."""
    number = isinstance(value, (int, float))
    return not number, value if number else str(value)


def _draw_spread(panel: Axes, values: Mapping[Any, Sequence[float]], name: str, color: str) -> None:
    """Draw means with bars from the least to the most."""
    middle = [mean(members) for members in values.values()]
    below = [m - min(members) for m, members in zip(middle, values.values(), strict=True)]
    above = [max(members) - m for m, members in zip(middle, values.values(), strict=True)]
    style: dict[str, Any] = {"color": color, "marker": "o", "markersize": 3.4, "capsize": 2}
    panel.errorbar(list(values), middle, [below, above], label=name, linewidth=1.2, **style)


def _draw_against_eps(
    axes: Axes, eps: Sequence[float], lines: Lines, looks: Mapping[str, _Look]
) -> None:
    """Draw a line for each name; radii are few and far apart, so that no leap breaks a line."""
    for name, values in lines.items():
        look = looks[name]
        color = COLORS[look.color]
        band = _Band.of(values)
        axes.fill_between(eps, band.low, band.high, color=color, alpha=0.16, linewidth=0)
        style: dict[str, Any] = {"color": color, "linestyle": look.dashes, "linewidth": 1.5}
        axes.plot(eps, band.middle, marker=look.marker, markersize=3.4, label=name, **style)
    axes.set_xlabel("eps")
    axes.grid(axis="y")
    axes.tick_params(length=0)


def to_svg(figure: Figure, prefix: str) -> str:
    """Return the figure as an SVG element to be put into a page as it is.

    Its identifiers start with `prefix`, so that several fit into one page; it holds no address of
    any kind, its ground is transparent, and its colors are CSS variables (`--ink`, `--clean`, ...)
    that fall back to `COLORS`.
    """
    buffer = io.StringIO()
    with _style():
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL
    )
    text = text.replace("<svg", '<svg style="stroke-linejoin: round; stroke-linecap: butt"', 1)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text, count=2).replace("xlink:href=", "href=")
    text = re.sub(r'\b(id=")|(href="#)|(url\(#)', lambda match: match[0] + prefix + "-", text)
    for name, color in COLORS.items():
        text = text.replace(f": {color}", f": var(--{name}, {color})")
    return text.strip()

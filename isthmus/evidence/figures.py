"""Figures of a path: what the networks along it do, and what became of each class.

A function takes a report's record, or a measured `Path`, and returns a matplotlib `Figure` to show
or save as the caller likes; pyplot, its windows and its settings stay as they are. `to_svg` is what
the HTML page embeds.

Colors are from the palette of Okabe and Ito (2008), told apart by the color-blind; lines also
differ in dashes and markers, so that a black and white print says the same."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from isthmus.evidence.labels import Record, is_loss, label, short
from isthmus.metrics.path import Path
from isthmus.metrics.values import as_record
from isthmus.types import BadInput

if TYPE_CHECKING:  # a second's worth of import that most commands never need
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
"""What is drawn in which color. An SVG names them as CSS variables, so that a page can turn them
for dark screens.
"""


class _Look(NamedTuple):
    color: str
    dashes: Any
    marker: str


_LOOKS = {
    "accuracy": _Look("clean", "-", "o"),
    "attack success": _Look("attack", "-", "s"),
    "bonafide accuracy": _Look("bonafide", (0, (4, 1.6)), "D"),
    "loss": _Look("clean", "-", "o"),
    "bonafide loss": _Look("bonafide", (0, (4, 1.6)), "D"),
    "robustness loss": _Look("attack", (0, (4, 1.6)), "s"),
    "error": _Look("clean", "-", "o"),
    "evasion success": _Look("attack", (0, (4, 1.6)), "s"),
    "lambda_max": _Look("third", (0, (1, 1)), "^"),
    "gradient l1": _Look("fourth", (0, (5, 1, 1, 1)), "v"),
}


_OTHER_LOOKS = (_Look("third", (0, (1, 1)), "^"), _Look("fourth", (0, (5, 1, 1, 1)), "v"))


@contextmanager
def _style() -> Iterator[None]:
    """Settings for the figures made within, put back after. Class names are text, never formulae."""

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


def _number(value: Any) -> float:
    """A number as it stands in a record, where null is one that was not finite."""
    return math.nan if value is None else float(value)


def _band(values: Sequence[Record]) -> tuple[list[float], list[float], list[float]]:
    """Values and the ends of their intervals; a value without an interval is its own."""
    middle = [_number(v["value"]) for v in values]
    low, high = ([_number(v.get(end, v["value"])) for v in values] for end in ("low", "high"))
    return middle, low, high


def _path_of(source: Record | Path) -> tuple[list[float], dict[str, list[Record]]]:
    """The points and values of a path, whether it comes measured or from a report. Raises BadInput
    where it is none.
    """
    if isinstance(source, Path):
        return list(source.t), {
            name: [as_record(v) for v in series] for name, series in source.values.items()
        }
    try:
        return source["path"]["t"], source["path"]["values"]
    except (KeyError, TypeError) as error:
        raise BadInput(
            "a record without a path", expected="a report or a Path", fix="pass what repair made"
        ) from error


def _with_gaps(t: Sequence[float], *columns: Sequence[float]) -> tuple[list[float], ...]:
    """Break every column where t leaps over what was never measured, so that no line pretends to
    know what is there.
    """
    steps = [after - before for before, after in pairwise(t)]
    leap = 4 * median(steps) if steps else math.inf
    rows: list[tuple[float, ...]] = []
    for i, row in enumerate(zip(t, *columns, strict=True)):
        if i and row[0] - t[i - 1] > leap:
            rows.append((row[0], *[math.nan] * len(columns)))
        rows.append(row)
    return tuple(list(column) for column in zip(*rows, strict=True))


def _draw_series(axes: Axes, t: Sequence[float], series: Mapping[str, Sequence[Record]]) -> None:
    others = iter(_OTHER_LOOKS * len(series))
    known = [name for name in _LOOKS if name in series]
    for name in dict.fromkeys([*known, *series]):
        values, look = series[name], _LOOKS.get(name) or next(others)
        color = COLORS[look.color]
        at, middle, low, high = _with_gaps(t, *_band(values))
        axes.fill_between(at, low, high, color=color, alpha=0.16, linewidth=0)
        axes.plot(
            at,
            middle,
            color=color,
            linestyle=look.dashes,
            marker=look.marker if len(t) <= 31 else None,  # more markers than that are a thick line
            markersize=3.4,
            linewidth=1.5,
            label=short(label(name), 22),
            zorder=3
            if name == "attack success"
            else 2,  # where all are at 100 %, that is the one to see
        )


def _limit_losses(axes: Axes, losses: Mapping[str, Sequence[Record]]) -> None:
    """Start at 0, or go logarithmic where a barrier would press the rest of the curve flat."""

    bands = [_band(series) for series in losses.values()]
    values = [v for middle, _, _ in bands for v in middle if math.isfinite(v)]
    highs = [v for _, _, high in bands for v in high if math.isfinite(v)]
    if values and min(values) > 0 and max(values) > 50 * median(values):
        axes.set_yscale("log")
        axes.set_ylim(
            min(values) / 2, max(*values, *highs) * 1.5
        )  # a band may reach below 0, the axis cannot
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    elif values:
        axes.set_ylim(0, max(*values, *highs, 1e-6) * 1.1)


def _limit_shares(axes: Axes, shares: Mapping[str, Sequence[Record]]) -> None:
    """Show 0 to 100 %, or less where every curve stays far above 0: a dip of three points is what
    is looked for.
    """
    lows = [v for series in shares.values() for v in _band(series)[1] if math.isfinite(v)]
    floor = math.floor(min(lows, default=0) * 10 - 0.5) / 10
    floor = floor if floor >= 0.4 else 0.0
    margin = 0.02 * (1 - floor)
    axes.set_ylim(floor - margin, 1 + margin)


def _mark_chosen(axes: Sequence[Axes], chosen: float) -> None:
    for each in axes:
        each.axvline(chosen, color=COLORS["ink"], linewidth=1.1, zorder=1.5)
    axes[0].text(
        chosen,
        1.02,
        f"chosen: t = {chosen:.4g}",
        transform=axes[0].get_xaxis_transform(),
        ha="left" if chosen < 0.15 else "right" if chosen > 0.85 else "center",
        va="bottom",
        weight="bold",
    )


def _label_ends(axes: Axes, ends: tuple[str, str], room: int) -> None:
    """Name the two ends, each in at most `room` letters, and t between them, under the numbers of
    the axis.
    """
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0", "0.2", "0.4", "0.6", "0.8", "1"])
    axes.set_xlim(-0.02, 1.02)
    for at, text, side in ((0.0, ends[0], "left"), (0.5, "t", "center"), (1.0, ends[1], "right")):
        axes.annotate(
            short(text, room),
            (at, 0),
            (0, -18),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            ha=side,
            va="top",
            style="italic" if text == "t" else "normal",
        )


def along_path(
    source: Record | Path,
    *,
    chosen: float | None = None,
    ends: tuple[str, str] | None = None,
    width: float = 7.4,
) -> Figure:
    """Return shares of samples (with their 95 % intervals) and losses against t; `width` in inches.

    A report brings its own chosen t and names of the ends; a Path may be given both. Losses are in
    nats, and on a logarithmic scale where one is more than 50 times their median. Raises BadInput
    where the source holds no path."""
    from matplotlib.figure import Figure

    t, values = _path_of(source)
    if not isinstance(source, Path):
        chosen, ends = (
            chosen if chosen is not None else source["choice"]["t"],
            ends or end_names(source),
        )
    shares = {name: series for name, series in values.items() if not is_loss(name)}
    losses = {name: series for name, series in values.items() if is_loss(name)}
    with _style():
        figure = Figure(figsize=(width, 4.6 if width > 5 else 4.9), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
        _draw_series(top, t, shares)
        _draw_series(bottom, t, losses)
        _limit_shares(top, shares)
        top.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
        top.set_ylabel("share of samples")
        bottom.set_ylabel("loss (nats)")
        _limit_losses(bottom, losses)
        for axes in (top, bottom):
            axes.grid(axis="y")
            axes.tick_params(length=0)
        if chosen is not None:
            _mark_chosen((top, bottom), chosen)
        _label_ends(bottom, ends or ("start", "end"), room=int(4.5 * width))
        handles = top.get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside upper left", ncols=3 if width > 5 else 1)
    return figure


def landscape(source: Record, *, width: float = 7.4) -> Figure:
    """Return the robustness landscape of a path against t, one panel a unit, with 95 % intervals;
    `width` in inches.

    `source` is the part of a record that `isthmus.landscape.record` makes. Raises BadInput where it
    is none."""
    from matplotlib.figure import Figure

    if "t" not in source or "robustness loss" not in source.get("values", {}):
        raise BadInput(
            "a record without a landscape",
            expected="what landscape.record made",
            fix="pass --landscape",
        )
    panels = {
        "loss (nats)": ("loss", "robustness loss"),
        "share": ("error", "evasion success"),
        "curvature": ("lambda_max",),
        "gradient": ("gradient l1",),
    }
    with _style():
        figure = Figure(figsize=(width, 6.6), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True)
        for each, (unit, names) in zip(axes, panels.items(), strict=True):
            series = {name: source["values"][name] for name in names}
            _draw_series(each, source["t"], series)
            _limit_losses(each, series)
            each.set_ylabel(unit)
            each.grid(axis="y")
            each.tick_params(length=0)
            each.locator_params(axis="y", nbins=4) if each.get_yscale() == "linear" else None
        axes[1].set_ylim(-0.02, 1.02)
        axes[1].yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
        axes[-1].set_xlabel("point t on the path")
        axes[-1].set_xlim(-0.02, 1.02)
        handles = [handle for each in axes for handle in each.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside upper left", ncols=3 if width > 5 else 2)
    return figure


def contours(
    source: Record, name: str, *, corners: Sequence[str] = ("1", "2", "3"), width: float = 5.0
) -> Figure:
    """Return a metric's contours over a plane through three networks, which are marked; `width` in
    inches.

    `source` is what `PlaneValues.record` made. Losses are drawn on a logarithmic scale. Raises
    BadInput where the metric was not measured."""
    from matplotlib.figure import Figure

    rows = source["values"].get(name)
    if rows is None:
        raise BadInput(
            f"metric {name!r}",
            expected=f"one of {sorted(source['values'])}",
            fix="measure it on the plane",
        )
    values = [[_number(v["value"]) for v in row] for row in rows]
    known = [v for row in values for v in row if math.isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    logarithmic = is_loss(name) and low > 0 and high > 10 * low
    spaced = [low + (high - low or 1) * i / 12 for i in range(13)]
    levels = [low * (high / low) ** (i / 12) for i in range(13)] if logarithmic else spaced
    with _style():
        figure = Figure(figsize=(width, 0.85 * width), layout="constrained")
        axes = figure.subplots()
        norm = LogNorm(levels[0], levels[-1]) if logarithmic else Normalize(levels[0], levels[-1])
        filled = axes.contourf(
            source["x"], source["y"], values, levels=levels, norm=norm, cmap="cividis"
        )
        figure.colorbar(
            filled, ax=axes, label=label(name) + (" (nats)" if is_loss(name) else ""), format="%.3g"
        )
        for (x, y), text in zip(source["corners"], corners, strict=True):
            axes.plot(x, y, "o", color="white", markeredgecolor=COLORS["ink"], markersize=6)
            box = {
                "boxstyle": "round,pad=0.15",
                "facecolor": "white",
                "edgecolor": "none",
                "alpha": 0.75,
            }
            axes.annotate(short(text, 20), (x, y), (6, 6), textcoords="offset points", bbox=box)
        axes.set_aspect("equal")
        axes.set_xlabel("distance in weight space")
        axes.tick_params(length=0)
    return figure


def end_names(record: Record) -> tuple[str, str]:
    """Return what a report's figures call the networks at t = 0 and t = 1."""
    other = record["provenance"].get("other", {}).get("kind", "given")
    return "as received", "second network" if other == "given" else str(other)


def worst_classes(record: Record, count: int = 20) -> list[str]:
    """Return the classes to show: all, in their order, or the `count` least accurate after the
    repair, worst first.
    """
    after = record["after"].get("per_class") or {}
    if len(after) <= count:
        return list(after)
    return sorted(after, key=lambda name: _number(after[name]["value"]))[:count]


def per_class(record: Record, *, count: int = 20, width: float = 7.4) -> Figure:
    """Return each class's accuracy before (open circle) and after (filled, with its 95 % interval);
    `width` in inches.

    Beyond `count` classes, the least accurate after the repair. Raises BadInput where there are no
    classes."""
    from matplotlib.figure import Figure

    names = worst_classes(record, count)
    if not names:
        raise BadInput(
            "a record without classes",
            expected="accuracies per class",
            fix="measure them after the repair",
        )
    none: Record = {"value": None}
    before = _band([record["before"].get("per_class", {}).get(name, none) for name in names])[0]
    after, low, high = _band([record["after"]["per_class"][name] for name in names])
    rows = range(len(names))
    with _style():
        figure = Figure(figsize=(width, 1.2 + 0.24 * len(names)), layout="constrained")
        axes = figure.subplots()
        axes.hlines(rows, low, high, color=COLORS["clean"], alpha=0.3, linewidth=5)
        axes.plot(
            before,
            rows,
            "o",
            color=COLORS["muted"],
            markerfacecolor="none",
            markersize=5,
            label="before",
        )
        axes.plot(
            after, rows, "o", color=COLORS["clean"], markersize=5, label="after, 95 % interval"
        )
        axes.set_yticks(rows, [short(name, 24) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))
        axes.set_xlabel("accuracy within the class")
        axes.grid(axis="x")
        axes.tick_params(length=0)
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def training_loss(record: Record, *, width: float = 7.4) -> Figure:
    """Return the curve's training loss, averaged over equal parts of its budget, against steps;
    `width` in inches.

    Raises BadInput where the record holds no losses.
    """
    from matplotlib.figure import Figure

    curve = record["curve"]
    losses = [_number(loss) for loss in curve.get("losses", ())]
    if not losses:
        raise BadInput(
            "a curve without losses",
            expected="its training losses",
            fix="keep the History that fit returns",
        )
    share = curve["steps"] / len(losses)
    with _style():
        figure = Figure(figsize=(width, 1.9), layout="constrained")
        axes = figure.subplots()
        steps = [share * (i + 0.5) for i in range(len(losses))]
        axes.plot(steps, losses, color=COLORS["clean"], linewidth=1.5, marker="o", markersize=3.4)
        axes.set_xlim(0, curve["steps"] or 1)
        _limit_losses(axes, {"loss": [{"value": loss} for loss in losses]})
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_xlabel("SGD steps")
        axes.set_ylabel("loss (nats)")
        axes.locator_params(axis="y", nbins=4)
        axes.grid(axis="y")
        axes.tick_params(length=0)
    return figure


def to_svg(figure: Figure, prefix: str) -> str:
    """Return the figure as an SVG element to be put into a page as it is.

    Its identifiers start with `prefix`, so that several fit into one page; it holds no address of
    any kind, its ground is transparent, and its colors are CSS variables (`--ink`, `--clean`, ...)
    that fall back to `COLORS`."""
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
    text = re.sub(r'\b(id=")|(href="#)|(url\(#)', lambda found: found[0] + prefix + "-", text)
    for name, color in COLORS.items():
        text = text.replace(f": {color}", f": var(--{name}, {color})")
    return text.strip()

"""The figure of an attack's health: gain against steps, accuracy against eps, loss along the
attack's path, spread over restarts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isthmus.evidence.figures.drawing import COLORS, Band, in_percent, number, styled
from isthmus.evidence.health_record import AttackHealth, LookPart

_LINE: dict[str, Any] = {"marker": "o", "markersize": 3.4, "linewidth": 1.5}


def attack_health(source: AttackHealth, *, width: float = 7.4) -> Figure:
    """Return the four panels; `width` in inches. A panel without measurements says so."""
    wide = width > 5
    with styled():
        figure = Figure(figsize=(width, 5.4 if wide else 9.6), layout="constrained")
        panels = figure.subplots(2 if wide else 4, 2 if wide else 1).flatten()
        gain, radius, climb, spread = panels
        _draw_gains(gain, source.gains)
        _draw_radii(radius, source)
        _draw_values(climb, source.values)
        _draw_spreads(spread, source.spreads)
        for axes in panels:
            axes.grid(axis="y")
            axes.tick_params(length=0)
    return figure


def _absent(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center")
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_quartiles(axes: Axes, looks: Sequence[LookPart], color: str) -> None:
    steps = [look.step for look in looks]
    low, middle, high = ([number(look.quartiles[i]) for look in looks] for i in range(3))
    Band(middle, low, high).shade(axes, steps, COLORS[color])
    axes.plot(steps, middle, color=COLORS[color], **_LINE)


def _draw_gains(axes: Axes, looks: Sequence[LookPart]) -> None:
    axes.set_title("Gain against steps: median, middle half", loc="left", fontsize=9)
    if not looks:
        _absent(axes)
        return
    _draw_quartiles(axes, looks, "clean")
    axes.set_ylim(-0.02, 1.05)
    in_percent(axes.yaxis)
    axes.set_xlabel("steps")


def _draw_values(axes: Axes, looks: Sequence[LookPart]) -> None:
    axes.set_title("Objective along the attack's path", loc="left", fontsize=9)
    if not looks:
        _absent(axes)
        return
    _draw_quartiles(axes, looks, "attack")
    axes.set_xlabel("step")


def _draw_radii(axes: Axes, source: AttackHealth) -> None:
    axes.set_title("Accuracy under PGD against eps", loc="left", fontsize=9)
    rows = sorted(source.radii, key=lambda row: row.eps)
    if not rows:
        _absent(axes)
        return
    eps = [row.eps for row in rows]
    band = Band.of([row.accuracy for row in rows])
    band.shade(axes, eps, COLORS["bonafide"])
    axes.plot(eps, band.middle, color=COLORS["bonafide"], **_LINE)
    axes.set_ylim(-0.02, 1.02)
    in_percent(axes.yaxis)
    axes.set_xlabel("eps")


def _draw_spreads(axes: Axes, spreads: Sequence[float]) -> None:
    axes.set_title("Spread over restarts, sample by sample", loc="left", fontsize=9)
    if not spreads:
        _absent(axes)
        return
    shares = [i / (len(spreads) - 1) for i in range(len(spreads))]
    axes.plot(shares, spreads, color=COLORS["third"], **_LINE)
    axes.set_ylim(bottom=0)
    in_percent(axes.xaxis)
    axes.set_xlabel("samples with at most this spread")

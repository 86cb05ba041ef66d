"""Figures of certificates and of a detector, against eps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isthmus.detection.evaluation import ATTACK, AWARE, NOISE
from isthmus.evidence.certificate_record import Certificates
from isthmus.evidence.detection_record import Detection
from isthmus.evidence.figures.drawing import COLORS, Band, Lines, Look, in_percent, styled
from isthmus.evidence.record import Value
from isthmus.types import BadInput

_CERTIFIED = {
    "certified": Look("clean", "-", "o"),
    "under attack": Look("attack", (0, (4, 1.6)), "s"),
}

_DETECTED = {
    ATTACK: Look("attack", "-", "s"),
    NOISE: Look("clean", (0, (4, 1.6)), "o"),
    AWARE: Look("third", (0, (1, 1)), "^"),
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
    with styled():
        figure = Figure(figsize=(width, 3.2), layout="constrained")
        axes = figure.subplots()
        _draw_against_eps(axes, [row.eps for row in rows], lines, _CERTIFIED)
        axes.set_ylabel("accuracy")
        axes.set_ylim(-0.02, 1.02)
        in_percent(axes.yaxis)
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
    with styled():
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
        in_percent(lower.yaxis)
        handles = upper.get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside upper left", ncols=3 if width > 5 else 2)
    return figure


def _draw_against_eps(
    axes: Axes, eps: Sequence[float], lines: Lines, looks: Mapping[str, Look]
) -> None:
    """Draw a line for each name; radii are few and far apart, so that no leap breaks a line."""
    for name, values in lines.items():
        look = looks[name]
        color = COLORS[look.color]
        band = Band.of(values)
        band.shade(axes, eps, color)
        style: dict[str, Any] = {"color": color, "linestyle": look.dashes, "linewidth": 1.5}
        axes.plot(eps, band.middle, marker=look.marker, markersize=3.4, label=name, **style)
    axes.set_xlabel("eps")
    axes.grid(axis="y")
    axes.tick_params(length=0)

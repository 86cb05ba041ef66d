"""Metrics drawn against t, each with its color, dashes and marker, and gaps where nothing was
measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from isthmus.evidence.figures.drawing import COLORS, Band, Lines, Look, finite
from isthmus.evidence.labels import label, short
from isthmus.evidence.record import Value
from isthmus.metrics.names import (
    ACCURACY,
    ATTACK_SUCCESS,
    BONAFIDE_ACCURACY,
    BONAFIDE_LOSS,
    LOSS,
    RECALIBRATED,
    RECOVERY,
    SPARSE,
    UNIVERSAL,
)

_LOOKS = {
    ACCURACY: Look("clean", "-", "o"),
    ATTACK_SUCCESS: Look("attack", "-", "s"),
    RECOVERY: Look("third", (0, (1, 1)), "^"),
    UNIVERSAL: Look("fourth", (0, (5, 1, 1, 1)), "v"),
    SPARSE: Look("fourth", (0, (2, 1)), "v"),
    RECALIBRATED: Look("fourth", (0, (1, 1)), "v"),
    BONAFIDE_ACCURACY: Look("bonafide", (0, (4, 1.6)), "D"),
    LOSS: Look("clean", "-", "o"),
    BONAFIDE_LOSS: Look("bonafide", (0, (4, 1.6)), "D"),
    "robustness loss": Look("attack", (0, (4, 1.6)), "s"),
    "error": Look("clean", "-", "o"),
    "evasion success": Look("attack", (0, (4, 1.6)), "s"),
    "lambda_max": Look("third", (0, (1, 1)), "^"),
    "gradient l1": Look("fourth", (0, (5, 1, 1, 1)), "v"),
}

_OTHER_LOOKS = (Look("third", (0, (1, 1)), "^"), Look("fourth", (0, (5, 1, 1, 1)), "v"))


def leaps(t: Sequence[float]) -> list[bool]:
    """Return for each point whether t leaps to it, by more than four times the usual step."""
    steps = [after - before for before, after in pairwise(t)]
    leap = 4 * median(steps) if steps else math.inf
    return [False, *(step > leap for step in steps)]


def _with_gaps(t: Sequence[float], *columns: Sequence[float]) -> tuple[list[float], ...]:
    """Break every column where t leaps over what was never measured, so that no line pretends to
    know what is there.
    """
    rows: list[tuple[float, ...]] = []
    for leaping, row in zip(leaps(t), zip(t, *columns, strict=True), strict=True):
        if leaping:
            rows.append((row[0], *[math.nan] * len(columns)))
        rows.append(row)
    return tuple(list(column) for column in zip(*rows, strict=True))


def draw_lines(axes: Axes, t: Sequence[float], lines: Lines) -> None:
    """Draw the metrics, those with a look of their own first."""
    others = iter(_OTHER_LOOKS * len(lines))
    known = [name for name in _LOOKS if name in lines]
    for name in dict.fromkeys([*known, *lines]):
        look = _LOOKS.get(name) or next(others)
        # where all are at 100 %, attack success is the one to see
        _draw_line(axes, t, lines[name], label(name), look, on_top=name == ATTACK_SUCCESS)


def _draw_line(
    axes: Axes, t: Sequence[float], values: Sequence[Value], text: str, look: Look, *, on_top: bool
) -> None:
    color = COLORS[look.color]
    at, *columns = _with_gaps(t, *Band.of(values))
    band = Band(*columns)
    band.shade(axes, at, color)
    axes.plot(
        at,
        band.middle,
        color=color,
        linestyle=look.dashes,
        marker=look.marker if len(t) <= 31 else None,  # more markers than that are a thick line
        markersize=3.4,
        linewidth=1.5,
        label=short(text, 22),
        zorder=3 if on_top else 2,
    )


def limit_numbers(axes: Axes, lines: Lines) -> None:
    """Start at 0, or go logarithmic where a barrier would press the rest of the curve flat."""
    bands = [Band.of(series) for series in lines.values()]
    values = finite(value for band in bands for value in band.middle)
    highs = finite(value for band in bands for value in band.high)
    if not values:
        return
    if min(values) > 0 and max(values) > 50 * median(values):
        axes.set_yscale("log")
        # a band may reach below 0, the axis cannot
        axes.set_ylim(min(values) / 2, max(*values, *highs) * 1.5)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        lows = finite(value for band in bands for value in band.low)
        bottom = min(0.0, *values, *lows) * 1.1
        axes.set_ylim(bottom if min(values) < 0 else 0, max(*values, *highs, 1e-6) * 1.1)

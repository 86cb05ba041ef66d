"""The figure of a sweep: a value of its jobs against one of their axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from isthmus.evidence.figures.drawing import COLORS, styled
from isthmus.evidence.labels import label
from isthmus.evidence.sweep_report import Finished, check_known, grouped
from isthmus.metrics.values import SHARE, unit_of


def swept(
    jobs: Sequence[Finished], x: str, y: str, lines: str | None = None, *, width: float = 7.4
) -> Figure:
    """Return the value at path `y` of a sweep's jobs against their axis `x`, a line for each value
    of the axis `lines`.

    A point is the mean over all other axes, its bar the least and the most. An axis of texts is
    drawn in the order of the jobs. Raises BadInput where no job has such an axis or value.
    """
    by = [] if lines is None else [lines]
    check_known(jobs, [x, *by], [])
    check_known([job for job in jobs if x in job.axes], [], [y])
    measured = [job for job in jobs if x in job.axes and job.value(y) is not None]
    colors = cycle(COLORS[name] for name in ("clean", "attack", "bonafide", "third", "fourth"))
    with styled():
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

"""What all figures share: colors, settings, values with their intervals, and how a page gets them.

Colors are from the palette of Okabe and Ito (2008), told apart by the color-blind; lines also
differ in dashes and markers, so that a black and white print says the same.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from isthmus.evidence.record import Value

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


class Look(NamedTuple):
    """How a line looks: its color by name, its dashes and its markers."""

    color: str
    dashes: Any
    marker: str


@contextmanager
def styled() -> Iterator[None]:
    """Run a block in which figures are made with the settings of all pages, put back afterward.

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


def number(value: float | None) -> float:
    """Return a number as a figure draws it: one that was not finite leaves a gap."""
    return math.nan if value is None else value


def finite(numbers: Iterable[float]) -> list[float]:
    """Return the numbers that are finite."""
    return [number for number in numbers if math.isfinite(number)]


class Band(NamedTuple):
    """Values and the ends of their intervals; a value without an interval is its own."""

    middle: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, values: Sequence[Value]) -> Band:
        """Return the band of values of a record."""
        middle = [number(v.value) for v in values]
        ends = [v.interval or (number(v.value), number(v.value)) for v in values]
        return cls(middle, [low for low, _ in ends], [high for _, high in ends])

    def shade(self, axes: Axes, at: Sequence[float], color: str) -> None:
        """Shade what the intervals cover at these places."""
        axes.fill_between(at, self.low, self.high, color=color, alpha=0.16, linewidth=0)


Lines = Mapping[str, Sequence[Value]]
"""For each metric of a panel its values along t."""


def in_percent(ticks: Any) -> None:
    """Number an axis in percent."""
    ticks.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=" %"))


def to_svg(figure: Figure, prefix: str) -> str:
    """Return the figure as an SVG element to be put into a page as it is.

    Its identifiers start with `prefix`, so that several fit into one page; it holds no address of
    any kind, its ground is transparent, and its colors are CSS variables (`--ink`, `--clean`, ...)
    that fall back to `COLORS`.
    """
    buffer = io.StringIO()
    with styled():
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

"""What page, terminal and Markdown show of a report: networks, measures, origins of weights."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from isthmus.evidence.record import Report, Value
from isthmus.metrics.names import (
    ACCURACY,
    ATTACK_SUCCESS,
    BONAFIDE_ACCURACY,
    BONAFIDE_LOSS,
    CALIBRATION_ERROR,
    CONFIDENCE,
    INJECTION_SUCCESS,
    LOSS,
    RECOVERY,
)
from isthmus.metrics.values import NATS

ORDER = (
    ACCURACY,
    ATTACK_SUCCESS,
    RECOVERY,
    INJECTION_SUCCESS,
    BONAFIDE_ACCURACY,
    LOSS,
    BONAFIDE_LOSS,
    CONFIDENCE,
    CALIBRATION_ERROR,
)
"""The order in which measures are shown; others follow."""


@dataclass(frozen=True)
class TableRow:
    """A network in the comparison: how it came about and what was measured on it."""

    name: str
    settings: str
    measures: dict[str, Value]
    steps: int | None = None
    seconds: float | None = None
    repaired: bool = False


def table_rows(report: Report) -> list[TableRow]:
    """Return the network as received, the repaired one, and the baselines."""
    name = "Repaired" if report.choice.confident else "Repaired, candidate"
    repaired = TableRow(
        name,
        f"t = {report.choice.t:.4g}",
        report.after.measures,
        report.curve.gradients,
        report.curve.seconds,
        repaired=True,
    )
    others = [
        TableRow(row.name, row.settings, row.measures, row.steps, row.seconds)
        for row in report.baselines
    ]
    return [TableRow("As received", "", report.before.measures), repaired, *others]


def ordered(names: Iterable[str]) -> list[str]:
    """Return the names of metrics, each once, in the order in which they are shown."""
    return sorted(
        dict.fromkeys(names),
        key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER),
    )


def measured(report: Report) -> list[str]:
    """Return the names of all that was measured on the network before and after the repair."""
    return ordered([*report.after.measures, *report.before.measures])


def compared(report: Report) -> list[str]:
    """Return the names of what the networks are compared by.

    These are all measures but losses, which would tell a reader nothing new beside the accuracies,
    and calibration, which only the network before and after has.
    """
    return ordered(
        name
        for network in (report.after, report.before, *report.baselines)
        for name, value in network.measures.items()
        if value.unit != NATS and name not in (CONFIDENCE, CALIBRATION_ERROR)
    )


def end_names(report: Report) -> tuple[str, str]:
    """Return what the networks at t = 0 and t = 1 are called in figures.

    The second one goes by the first phrase of how it was made.
    """
    other = report.provenance.other
    if other is None or other.kind == "given":
        return "as received", "second network"
    phrase = re.split(r"[:;(]|, ", other.kind, maxsplit=1)[0].strip()
    return "as received", phrase or other.kind


def ingredients(report: Report) -> list[tuple[str, float]]:
    """Return the share of the chosen network's weights that comes from each end and bend."""
    coefficients = report.choice.coefficients
    bends = len(coefficients) - 2
    between = ["bend"] if bends == 1 else [f"bend {i + 1}" for i in range(bends)]
    first, last = end_names(report)
    return list(zip([first, *between, last], coefficients, strict=True))


def worst_classes(report: Report, count: int = 20) -> list[str]:
    """Return the classes to show: all, in their order, or the `count` least accurate after the
    repair, worst first.
    """
    after = report.after.per_class
    if len(after) <= count:
        return list(after)
    return sorted(after, key=lambda name: _known(after[name]))[:count]


def _known(value: Value) -> float:
    """A share, below all others where it was not finite."""
    return -1.0 if value.value is None else value.value

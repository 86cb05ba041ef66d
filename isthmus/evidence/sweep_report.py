"""What a sweep found: a table in Markdown of the values in its result files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from isthmus.evidence.labels import label
from isthmus.evidence.words import format_value
from isthmus.metrics.values import Quantity, from_record, unit_of
from isthmus.runs.sweep_file import check_axes
from isthmus.runs.wording import suggestion
from isthmus.types import BadInput

REPEATS = "seed"
"""The axis over which rows and points are averaged unless the sweep says otherwise."""


@dataclass(frozen=True)
class Finished:
    """A finished job: its axes, and the record that it returned."""

    axes: Mapping[str, Any]
    record: Mapping[str, Any]

    def value(self, path: str) -> float | None:
        """Return the value at a path of keys, as `repairs/screened/accuracy`, or None.

        A value is a number, or what `as_record` made of one.
        """
        place: Any = self.record
        for key in path.split("/"):
            if not isinstance(place, Mapping) or key not in place:
                return None
            place = place[key]
        return _as_value(place, path.rpartition("/")[2])


def _as_value(place: Any, name: str) -> float | None:
    if isinstance(place, Mapping) and "value" in place:
        return from_record(place, name)
    if isinstance(place, (int, float)) and not isinstance(place, bool):
        return float(place)
    return None


def sweep_table(
    jobs: Sequence[Finished],
    rows: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> str:
    """Return a table in Markdown: a row for each combination of the axes `rows`, a column for each
    title and path in `columns`.

    Cells are the mean over the other axes, with the least and the most in brackets. By default the
    rows are all axes but `seed`, and the columns all values at the top of the records. Raises
    BadInput where no job has such an axis or value.
    """
    if not jobs:
        return "No job is finished yet.\n"
    rows = _axes(jobs) if rows is None else rows
    columns = _columns(jobs) if columns is None else columns
    check_known(jobs, rows, columns.values())
    lines = [
        f"| {' | '.join([*rows, 'jobs', *columns])} |",
        "|---" * (len(rows) + 1 + len(columns)) + "|",
    ]
    for key, members in grouped(jobs, rows).items():
        cells = [_spread([job.value(path) for job in members]) for path in columns.values()]
        lines.append(f"| {' | '.join([*key, str(len(members)), *cells])} |")
    return "\n".join(lines) + "\n"


def grouped(jobs: Iterable[Finished], axes: Sequence[str]) -> dict[tuple[str, ...], list[Finished]]:
    """Return the jobs by their values of the axes, as text, in the order in which these appear."""
    groups: dict[tuple[str, ...], list[Finished]] = {}
    for job in jobs:
        groups.setdefault(tuple(str(job.axes.get(name, "")) for name in axes), []).append(job)
    return groups


def check_known(jobs: Sequence[Finished], axes: Iterable[str], paths: Iterable[str]) -> None:
    """Raise BadInput where no job has such an axis, or such a value in its record."""
    check_axes(axes, [job.axes for job in jobs])
    for path in paths:
        if all(job.value(path) is None for job in jobs):
            known = {key for job in jobs for key in job.record}
            raise BadInput(
                f"value {path!r}",
                expected="a number or a measured value in a result",
                fix=f"keys are joined by a slash; {suggestion(path, known)}",
            )


def _axes(jobs: Sequence[Finished]) -> list[str]:
    return [name for name in dict.fromkeys(n for job in jobs for n in job.axes) if name != REPEATS]


def _columns(jobs: Sequence[Finished]) -> dict[str, str]:
    """Return the values at the top of the records, by the titles that a person reads."""
    names = dict.fromkeys(name for job in jobs for name in job.record)
    axes = {name for job in jobs for name in job.axes}
    return {
        label(name): name
        for name in names
        if name not in axes and any(job.value(name) is not None for job in jobs)
    }


def _spread(values: Iterable[float | None]) -> str:
    """Return the mean of the values, with the least and the most where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    unit = unit_of(known[0])
    middle, low, high = (
        format_value(Quantity(number, unit)).main
        for number in (mean(map(float, known)), min(known), max(known))
    )
    return f"{middle} [{low}, {high}]" if len(known) > 1 else middle

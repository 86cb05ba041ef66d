"""The TOML file that describes a sweep: what is varied, what stays, which function does a job.

job = "pruning:run"          # PKG.MODULE:FUNCTION; modules beside the file count
name = "{method}-{density:g}-seed{seed}"   # of a result file; or a function of the axes
results = "results/pruning"  # from the current folder

[[grid]]                     # every combination, the first axis slowest; several grids add up
method = ["magnitude", "rewiring"]
density = [0.02, 0.1]
seed = [0, 1, 2]

[settings]                   # the same for every job
epochs = 8
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from isthmus.runs.imports import named_function
from isthmus.runs.sweep import Job, Sweep
from isthmus.runs.wording import first_line, suggestion
from isthmus.types import BadInput

KEYS = ("job", "name", "results", "page", "grid", "settings", "table", "plot", "slurm")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_titled(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


PARTS: Mapping[str, Mapping[str, tuple[Callable[[Any], bool], str, str]]] = {
    "table": {
        "rows": (_is_texts, "a list of axes", "rows = ['method', 'density']"),
        "columns": (_is_titled, "titles and values", "columns = {accuracy = 'accuracy'}"),
    },
    "plot": {
        "x": (_is_text, "an axis", "x = 'density'"),
        "y": (_is_text, "a value", "y = 'accuracy'"),
        "lines": (_is_text, "an axis", "lines = 'method'"),
    },
}
"""What may stand in the tables that say how results are shown: whether a value is one, what is
expected, and an example.
"""

NEEDED = {"plot": ("x", "y")}

_LONGEST_NAME = 220
"""Bytes in the name of a job. File systems hold 255, and its files have endings of their own."""


@dataclass(frozen=True)
class SweepFile:
    """A description of a sweep as it was read: its jobs, and the tables that say how to show them.

    `job` and `page` name functions, relative to the file's folder; "" where the file names none.
    """

    path: Path
    sweep: Sweep
    job: str = ""
    page: str = ""
    table: Mapping[str, Any] = field(default_factory=dict)
    plot: Mapping[str, Any] = field(default_factory=dict)
    slurm: Mapping[str, Any] = field(default_factory=dict)

    def function(self, spec: str) -> Callable[..., Any]:
        """Return a function that the file names. Raises BadInput where there is none."""
        return named_function(spec, self.path.parent)

    def changed(self, settings: Mapping[str, Any], results: Path | None = None) -> SweepFile:
        """Return the description with other settings, or another folder for the results.

        A dot in a name leads into a table: `training.steps`.
        """
        changed = dict(self.sweep.settings)
        for name, value in settings.items():
            changed = _with(changed, name.split("."), value)
        folder = results or self.sweep.results
        return replace(self, sweep=replace(self.sweep, settings=changed, results=folder))

    def only(self, wanted: Mapping[str, str]) -> SweepFile:
        """Return the description with those jobs alone whose axes have one of the wanted values.

        A text is one value, which may hold commas, or several between commas. Raises BadInput where
        an axis or value is in no job.
        """
        check_axes(wanted, [job.axes for job in self.sweep.jobs])
        named: dict[str, list[str]] = {}
        for axis, text in wanted.items():
            known = {str(job.axes[axis]) for job in self.sweep.jobs if axis in job.axes}
            named[axis] = [text] if text in known else text.split(",")
            for value in named[axis]:
                if value not in known:
                    raise BadInput(
                        f"{axis} = {value!r}",
                        expected="a value of the file's",
                        fix=suggestion(value, known),
                    )
        jobs = tuple(job for job in self.sweep.jobs if _matches(job, named))
        return replace(self, sweep=replace(self.sweep, jobs=jobs))


def read_sweep(path: Path | str) -> SweepFile:
    """Return the sweep that a TOML file describes.

    Raises BadInput where the file is no TOML, has unknown or missing parts, shows an axis that no
    job has, or two of its jobs have one name.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(
            f"{path} ({first_line(error)})", expected="a TOML file", fix="correct it"
        ) from error
    _check_parts(path, content)
    combinations = [axes for grid in _grids(content) for axes in _combinations(grid)]
    check_axes(_shown(content), combinations)
    varied = _varied(combinations)
    names = [_name(path, content.get("name", ""), axes, varied) for axes in combinations]
    jobs = {name: Job(name, axes) for name, axes in zip(names, combinations, strict=True)}
    _check_names(jobs, combinations)
    folder = Path(content.get("results", f"results/{path.stem}")).expanduser()
    sweep = Sweep(tuple(jobs.values()), content.get("settings", {}), folder)
    texts = {key: content.get(key, "") for key in ("job", "page")}
    tables = {key: content.get(key, {}) for key in ("table", "plot", "slurm")}
    return SweepFile(path, sweep, **texts, **tables)


def _check_parts(path: Path, content: Mapping[str, Any]) -> None:
    for key in content:
        if key not in KEYS:
            raise BadInput(
                f"{key!r} in {path}",
                expected=f"only {', '.join(KEYS)}",
                fix=f"{suggestion(key, KEYS)}; what all jobs share belongs into [settings]",
            )
    kinds = {str: ("job", "name", "results", "page"), dict: ("settings", "table", "plot", "slurm")}
    for kind, keys in kinds.items():
        for key in keys:
            if not isinstance(content.get(key, kind()), kind):
                raise BadInput(
                    f"{key} = {content[key]!r} in {path}",
                    expected="a text" if kind is str else "a table",
                    fix=f"write {key} = '...'" if kind is str else f"write [{key}]",
                )
    for part in PARTS:
        _check_shown(path, part, content.get(part, {}))
    grids = content.get("grid")
    well_formed = isinstance(grids, dict) or (
        isinstance(grids, list) and all(isinstance(grid, dict) for grid in grids)
    )
    if not grids or not well_formed:
        raise BadInput(
            f"{path} without jobs", expected="a table [[grid]] of axes", fix="write [[grid]]"
        )
    for name, values in (axis for grid in _grids(content) for axis in grid.items()):
        if values == []:
            raise BadInput(
                f"{name} = [] in {path}", expected="one value or more", fix="leave the axis out"
            )


def _grids(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the grids of a file: one table, or a list of them."""
    grids = content["grid"]
    return grids if isinstance(grids, list) else [grids]


def _check_shown(path: Path, part: str, table: Mapping[str, Any]) -> None:
    """Raise BadInput unless a table of the file says how to show results."""
    known = PARTS[part]
    for key, value in table.items():
        if key not in known:
            raise BadInput(
                f"{key!r} in [{part}] of {path}",
                expected=f"only {', '.join(known)}",
                fix=suggestion(key, known),
            )
        fits, kind, example = known[key]
        if not fits(value):
            raise BadInput(
                f"{key} = {value!r} in [{part}] of {path}",
                expected=kind,
                fix=f"for example {example}",
            )
    lacking = [key for key in NEEDED.get(part, ()) if table and key not in table]
    if lacking:
        raise BadInput(
            f"[{part}] without {' and '.join(lacking)} in {path}",
            expected=" and ".join(NEEDED[part]),
            fix=f"add {' and '.join(lacking)}, or leave [{part}] out",
        )


def _shown(content: Mapping[str, Any]) -> list[str]:
    """Return the axes that the tables of a file name to show results by."""
    table, plot = content.get("table", {}), content.get("plot", {})
    return [*table.get("rows", []), *(plot[key] for key in ("x", "lines") if key in plot)]


def check_axes(names: Iterable[str], jobs: Sequence[Mapping[str, Any]]) -> None:
    """Raise BadInput where none of the jobs, given by their axes, has an axis of such a name."""
    known = {name for axes in jobs for name in axes}
    for name in names:
        if name not in known:
            raise BadInput(
                f"axis {name!r}", expected="one of the sweep", fix=suggestion(name, known)
            )


def _combinations(grid: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every combination of a grid's axes; a single value is an axis of one."""
    values = [value if isinstance(value, list) else [value] for value in grid.values()]
    for chosen in product(*values):
        yield dict(zip(grid, chosen, strict=True))


def _varied(combinations: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the axes that are not the same in all jobs; all of them where there is one job."""
    axes = {name for combination in combinations for name in combination}
    values = {name: {repr(combination.get(name)) for combination in combinations} for name in axes}
    return {name for name in axes if len(values[name]) > 1 or len(combinations) == 1}


def _name(path: Path, pattern: str, axes: Mapping[str, Any], varied: Iterable[str]) -> str:
    """Return a job's name: the pattern with its axes, what the named function returns, or those of
    its axes that differ between jobs.
    """
    if not pattern:
        words = [_word(name, value) for name, value in axes.items() if name in varied]
        return "-".join(filter(None, words))
    if "{" not in pattern:
        return _named_by(path, pattern, axes)
    try:
        return pattern.format(**axes)
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise BadInput(
            f"name = {pattern!r} for {dict(axes)}",
            expected="a pattern of axes",
            fix="write name = '{method}-seed{seed}'",
        ) from error


def _named_by(path: Path, spec: str, axes: Mapping[str, Any]) -> str:
    """Return a job's name, from the function that makes it."""
    function = named_function(spec, path.parent)
    try:
        return str(function(**axes))
    except Exception as error:  # it is the user's own
        raise BadInput(
            f"name = {spec!r} for {dict(axes)} ({type(error).__name__}: {first_line(error)})",
            expected="a function of the axes",
            fix="correct it",
        ) from error


def _word(name: str, value: Any) -> str:
    """Return an axis as part of a file's name.

    >>> _word("defense", "FT-SAM"), _word("seed", 3), _word("network", "a.b:c,depth=8")
    ('ft-sam', 'seed3', 'a.b-c-depth-8')
    """
    text = f"{name}{value}" if isinstance(value, (int, float)) else str(value)
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in text.lower()).strip("-.")


def _check_names(jobs: Mapping[str, Job], combinations: Sequence[Mapping[str, Any]]) -> None:
    distinct = {repr(axes) for axes in combinations}
    if len(jobs) < len(distinct):
        raise BadInput(
            f"{len(distinct)} jobs of {len(jobs)} names",
            expected="a name of its own for each",
            fix="let `name` say all axes that differ",
        )
    for name in jobs:
        odd = not name or name.startswith(".") or "\0" in name or Path(name).name != name
        if odd or len(name.encode(errors="replace")) > _LONGEST_NAME:
            raise BadInput(
                f"a job named {name!r}",
                expected=f"a file name of at most {_LONGEST_NAME} bytes",
                fix="change `name` in the file",
            )


def _with(table: Mapping[str, Any], names: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a table with one value in it or in a table of it changed."""
    first, *rest = names
    within = table.get(first)
    if rest:
        value = _with(within if isinstance(within, Mapping) else {}, rest, value)
    return {**table, first: value}


def _matches(job: Job, wanted: Mapping[str, Iterable[str]]) -> bool:
    return all(str(job.axes.get(axis)) in values for axis, values in wanted.items())


def read_value(text: str) -> Any:
    """Return a setting from the command line: a value of TOML where it reads as one, else the text.

    >>> read_value("8"), read_value("[1, 2]"), read_value("true"), read_value("data/mnist")
    (8, [1, 2], True, 'data/mnist')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # of too many digits or brackets, too
        return text

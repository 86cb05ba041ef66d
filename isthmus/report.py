"""The evidence of a repair: one HTML page, the same as JSON, and the table that a terminal or a README shows.

Everything is made from one record, plain JSON, whose contract is `report.schema.json`; docs/report.md explains it.
The page stands alone: styles and figures are inside, it runs no script and asks no network for anything, and what
users named (classes, files, settings) is text on it, whatever it contains.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup
from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from isthmus import plot
from isthmus.files import read_json, write_json, write_text
from isthmus.plot import Record, is_loss, label
from isthmus.types import BadInput, percent

MEASURES = ("accuracy", "attack success", "injection success", "bonafide accuracy", "loss", "bonafide loss")
"""The order in which measures are shown; others follow."""

EXPLAINED = {
    "accuracy": "on evaluation data; higher is better",
    "attack success": "of triggered inputs from other classes, the share sent to the target; lower is better",
    "injection success": "of the images with an injected error, the share that still shows it; lower is better",
    "bonafide accuracy": "on trusted samples, those that t was chosen with; higher is better",
}
FACTS = {"other": "second endpoint", "recalibrated_on": "BatchNorm recalibrated on", "lr": "learning rate"}
CLASSES_SHOWN = 20
_SPACE, _DASH, _MINUS = "\u00a0", "\u2013", "\u2212"  # a number and its unit stay on one line


# ── the record ──────────────────────────────────────────────────────────────────────────────────────────────────────


def schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) that every report.json satisfies."""
    text = resources.files("isthmus").joinpath("report.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def plain(value: Any) -> Any:
    """Return a record as strict JSON can hold it: numbers that are not finite become null, tuples lists.

    Raises BadInput for anything but mappings, sequences, numbers, text, booleans and None.

    >>> plain({"loss": float("nan"), "t": (0.0, 1.0)})
    {'loss': None, 't': [0.0, 1.0]}
    """
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a file name may hold bytes that no encoding has
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    raise BadInput(f"a {type(value).__name__} in a report", expected="plain numbers and text", fix="convert it first")


def _checked(record: Record) -> dict[str, Any]:
    """Return the record as plain JSON. Raises BadInput where it is no report of this version, or parts are missing."""
    contract = schema()
    version = contract["properties"]["schema"]["const"]
    found = record.get("schema") if isinstance(record, Mapping) else None
    if found != version:
        raise BadInput(f"a record of schema {found!r}", expected=repr(version), fix="make it with this version")
    missing = [name for name in contract["required"] if name not in record]
    if missing:
        raise BadInput(f"a report without {missing}", expected="all parts of the schema", fix="see docs/report.md")
    return dict(plain(record))


@contextmanager
def _readable() -> Iterator[None]:
    """Turn what goes wrong with a malformed record into BadInput."""
    try:
        yield
    except BadInput:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise BadInput(
            f"a report that cannot be shown ({type(error).__name__}: {error})",
            expected="a record that satisfies report.schema.json",
            fix="see docs/report.md, or make the report anew",
        ) from error


def read_report(path: Path | str) -> dict[str, Any]:
    """Return the record in a report.json. Raises BadInput where there is none, or one of another version."""
    return _checked(read_json(path))


def write_report(record: Record, folder: Path | str) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into the folder and return their paths; each is whole or not there.

    Raises BadInput where the record is no report or the folder cannot be written.
    """
    record, folder = _checked(record), Path(folder)
    page = to_html(record)
    return write_json(folder / "report.json", record), write_text(folder / "report.html", page)


# ── numbers in words ────────────────────────────────────────────────────────────────────────────────────────────────


def nats(loss: float) -> str:
    """Return a loss with three decimals, or four digits where it is large.

    >>> nats(0.31249), nats(12345.6)
    ('0.312', '1.235e+04')
    """
    return f"{loss:.3f}" if abs(loss) < 100 else f"{loss:.4g}"


def duration(seconds: float | None) -> str:
    """Return a time as a person says it.

    >>> [duration(s).replace(_SPACE, " ") for s in (1.24, 75.0, 7500.0, None)]
    ['1.2 s', '1 min 15 s', '2 h 5 min', 'not measured']
    """
    if seconds is None:
        return "not measured"
    if seconds < 59.95:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    parts = (minutes, "min", rest, "s") if minutes < 60 else (minutes // 60, "h", minutes % 60, "min")
    return _SPACE.join(str(part) for part in parts)


def capital(text: str) -> str:
    """Return the text with a capital first, unless it starts with t, the point on the curve.

    >>> capital("fine-tune"), capital("t = 0.1 was given")
    ('Fine-tune', 't = 0.1 was given')
    """
    return text if text.startswith("t ") else text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """Return a phrase as a sentence: with a capital first and a full stop last.

    >>> sentence("the point farthest from both ends"), sentence("Why not?")
    ('The point farthest from both ends.', 'Why not?')
    """
    text = capital(text.strip())
    return text + ("" if not text or text.endswith((".", "!", "?")) else ".")


@dataclass(frozen=True)
class Shown:
    """A value as a person reads it, and where it and the ends of its interval lie on a scale of 0 to 100."""

    main: str
    interval: str = ""
    counts: str = ""
    at: float | None = None
    low: float | None = None
    high: float | None = None
    known: bool = True

    @property
    def details(self) -> str:
        """Interval and counts, as far as they are known."""
        return ", ".join(part for part in (self.interval, self.counts) if part)


def _interval(value: Record) -> tuple[float, float] | None:
    """The ends of a value's interval, where it has one that is finite."""
    low, high = value.get("low"), value.get("high")
    return None if low is None or high is None else (float(low), float(high))


def shown(value: Record | None, name: str) -> Shown:
    """Return a value of the named metric in words; what is absent or not finite says so."""
    if value is None:
        return Shown("not measured", known=False)
    at, ends = value["value"], _interval(value)
    counts = (
        f"{value['hits']:,} of {value['n']:,}" if "hits" in value else f"n = {value['n']:,}" if "n" in value else ""
    )
    if at is None:
        return Shown("not finite", counts=counts, known=False)
    if is_loss(name):
        return Shown(nats(at), f"{nats(ends[0])}{_DASH}{nats(ends[1])}" if ends else "", counts)
    if ends is None:
        return Shown(percent(at), counts=counts, at=100 * at)
    interval = f"{100 * ends[0]:.1f}{_DASH}{100 * ends[1]:.1f}{_SPACE}%"
    return Shown(percent(at), interval, counts, 100 * at, max(0, 100 * ends[0]), min(100, 100 * ends[1]))


def change(before: Record | None, after: Record | None, name: str) -> tuple[str, bool]:
    """Return by how much a measure moved, and whether the two intervals overlap, so that chance may explain it."""
    if before is None or after is None or before["value"] is None or after["value"] is None:
        return "", False
    moved = after["value"] - before["value"]
    size = nats(abs(moved)) if is_loss(name) else f"{100 * abs(moved):.1f} points"
    first, second = _interval(before), _interval(after)
    overlap = first is not None and second is not None and first[0] <= second[1] and second[0] <= first[1]
    sign = "" if round(moved, 3) == 0 else "+" if moved > 0 else _MINUS
    return sign + size, overlap


# ── what is shown ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Row:
    """A network in the comparison: how it came about and what was measured on it."""

    name: str
    settings: str
    values: Record
    steps: int | None = None
    seconds: float | None = None
    repaired: bool = False


def rows(record: Record) -> list[Row]:
    """Return the network as received, the repaired one, and the baselines."""
    curve, choice = record["curve"], record["choice"]
    name, at = "Repaired" if choice["confident"] else "Chosen, undecided", f"t = {choice['t']:.4g}"
    gradients = (2 if curve.get("rho") else 1) * curve["steps"] + curve.get("endpoint_gradients", 0)
    repaired = Row(name, at, record["after"], gradients, curve.get("seconds"), True)
    others = [Row(b["name"], b["settings"], b, b["steps"], b["seconds"]) for b in record["baselines"]]
    return [Row("As received", "", record["before"]), repaired, *others]


def _ordered(names: Iterable[str]) -> list[str]:
    """Metrics, each once, those with a place of their own first."""
    return sorted(dict.fromkeys(names), key=lambda name: MEASURES.index(name) if name in MEASURES else len(MEASURES))


def measures(record: Record) -> list[str]:
    """Return the names of the shares that were measured on the networks, in the order in which they are shown.

    Losses are shown along the path; beside accuracies they would tell a reader nothing new.
    """
    return _ordered(
        name
        for part in (record["after"], record["before"], *record["baselines"])
        for name, value in part.items()
        if isinstance(value, Mapping) and "value" in value and name != "per_class" and not is_loss(name)
    )


def ingredients(record: Record) -> list[tuple[str, float]]:
    """Return the share of the chosen network's weights that comes from each end and bend."""
    coefficients = record["choice"]["coefficients"]
    bends = len(coefficients) - 2
    between = ["bend"] if bends == 1 else [f"bend {i + 1}" for i in range(bends)]
    first, last = plot.end_names(record)
    return list(zip([first, *between, last], coefficients, strict=True))


def class_floor(record: Record, classes: list[str]) -> int:
    """Return where the scale of accuracies per class starts, a multiple of 10 %: no interval shown reaches below."""
    found = [
        part["per_class"].get(name)
        for part in (record["before"], record["after"])
        if "per_class" in part
        for name in classes
    ]
    lows = [each.get("low", each["value"]) for each in found if each]
    return 10 * min(9, max(0, math.floor(10 * min((low for low in lows if low is not None), default=0))))


def path_in_words(record: Record) -> str:
    """Return what the figure of the path shows, for those who cannot see it."""
    path, chosen = record["path"], record["choice"]["t"]
    near = min(range(len(path["t"])), key=lambda i: abs(path["t"][i] - chosen))
    places = dict.fromkeys((0, near, len(path["t"]) - 1))
    series = [
        label(name) + ": " + ", ".join(f"{shown(values[i], name).main} at t = {path['t'][i]:.4g}" for i in places)
        for name, values in path["values"].items()
    ]
    return f"Chosen point: t = {chosen:.4g}. " + "; ".join(series) + "."


def facts(record: Record, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield the entries of a part of the record as (name, text), those of its parts after their names."""
    for name, value in record.items():
        if name in skip or value is None:
            continue
        title = FACTS.get(name, name.replace("_", " "))
        if isinstance(value, Mapping):
            yield from ((f"{title}: {inner}", text) for inner, text in facts(value))
        elif name == "seconds":
            yield "time taken", duration(value)
        elif isinstance(value, float):
            yield title, f"{value:.6g}"
        elif isinstance(value, list):
            yield title, ", ".join(str(each) for each in value)
        else:
            yield title, f"{value:,}" if name in ("steps", "n") else str(value)


def number(value: Record | float | None) -> str:
    """Return a number with three digits, with the middle half of its samples where it is known.

    >>> number(0.12345), number({"value": 12.5, "quartiles": [1.0, 8.0, 20.25]}), number(None)
    ('0.123', '12.5 (1–20.2)', 'not finite')
    """
    if not isinstance(value, Mapping):
        return "not finite" if value is None else f"{value:.3g}".replace("-", _MINUS)
    low, _, high = value.get("quartiles", (None, None, None))
    spread = "" if low is None else f" ({low:.3g}{_DASH}{high:.3g})"
    return number(value["value"]) + spread


def landscape_in_words(part: Record) -> str:
    """Return what the figure of the landscape shows, for those who cannot see it."""
    return "Barriers: " + ", ".join(f"{label(name)} {number(value)}" for name, value in part["barriers"].items()) + "."


def _figures(draw: Callable[..., Any], record: Record, name: str, words: str) -> Markup:
    """Return one figure twice: for wide screens and paper, and for phones, where the page shows the other."""
    drawn = []
    for kind, width in (("wide", 7.4), ("narrow", 3.7)):
        svg = Markup(plot.to_svg(draw(record, width=width), f"{name}-{kind}"))
        opening = Markup('<svg class="{}" role="img" aria-label="{}" ').format(kind, words)
        drawn.append(svg.replace(Markup("<svg "), opening, 1))
    return Markup("\n").join(drawn)


def _environment() -> Environment:
    env = Environment(
        loader=PackageLoader("isthmus", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        label=label, percent=percent, duration=duration, capital=capital, sentence=sentence, short=plot.short, nats=nats
    )
    env.filters["facts"] = lambda part, *skip: list(facts(part, skip))
    env.globals.update(number=number, shown=shown, change=change, is_loss=is_loss, explained=EXPLAINED)
    return env


@_readable()
def to_html(record: Record) -> str:
    """Return the report as one page that needs nothing else. Raises BadInput where the record is no report."""
    record = _checked(record)
    words, surroundings = path_in_words(record), record.get("landscape")
    losses, classes = record["curve"]["losses"], plot.worst_classes(record, CLASSES_SHOWN)
    return (
        _environment()
        .get_template("report.html")
        .render(
            record=record,
            measures=measures(record),
            rows=rows(record),
            ingredients=ingredients(record),
            classes=classes,
            floor=class_floor(record, classes),
            series=_ordered(record["path"]["values"]),
            path_figure=_figures(plot.along_path, record, "path", words),
            landscape_figure=_figures(plot.landscape, surroundings, "landscape", landscape_in_words(surroundings))
            if surroundings
            else "",
            loss_figure=_figures(plot.training_loss, record, "training", "Training loss against SGD steps")
            if losses
            else "",
        )
    )


# ── plain text ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _effort(row: Row) -> str:
    """Steps and time of a row, as far as they are known."""
    steps = "" if row.steps is None else f"{row.steps:,}"
    return ", ".join(part for part in (steps, "" if row.seconds is None else duration(row.seconds)) if part)


@_readable()
def table(record: Record) -> Table:
    """Return the networks and what was measured on them, with intervals and counts, for a terminal of 80 columns."""
    record = _checked(record)
    names = measures(record)
    found = Table(title=Text(record["title"]), caption="95 % intervals, counts", box=SIMPLE, show_edge=False)
    found.add_column("Network")
    for name in names:
        found.add_column(label(name), justify="right", min_width=11)
    found.add_column("Steps, time", justify="right")
    for row in rows(record):
        style = "bold" if row.repaired else ""
        cells = [Text(capital(row.name), style).append(f"\n{row.settings if row.repaired else ''}", "dim")]
        for name in names:
            each = shown(row.values.get(name), name)
            details = f"\n{each.interval.removesuffix(_SPACE + '%')}\n{each.counts.replace(' of ', '/')}\n"
            cells.append(Text(each.main, style).append(details, "dim"))
        found.add_row(*cells, _effort(row).replace(", ", "\n"))
    return found


def landscape_tables(part: Record) -> list[Table]:
    """Return a landscape for a terminal: values at every t, barriers, and what the robustness loss goes with."""
    names = [name for name in part["values"] if not name.startswith("quadratic")]
    points = Table(title="Landscape", caption=part["attack"], box=SIMPLE, show_edge=False)
    for head in ("t", *map(label, names)):
        points.add_column(head, justify="right")
    for i, t in enumerate(part["t"]):
        points.add_row(f"{t:.4g}", *(number(part["values"][name][i]["value"]) for name in names))
    points.add_row("barrier", *(number(part["barriers"][name]) if name in part["barriers"] else "" for name in names))
    pairs = Table(title="Robustness loss against", box=SIMPLE, show_edge=False)
    for head in ("", "Pearson", "p", "Spearman", "p", "m", "R²"):
        pairs.add_column(head, justify="right" if head else "left")
    for each in part["correlations"]:
        found = [number(each[key]) for key in ("pearson", "pearson_p", "spearman", "spearman_p", "m")]
        share = part["explained"].get(each["second"], ...)
        pairs.add_row(label(each["second"]), *found, "" if share is ... else number(share))
    if part["explained"]:
        pairs.add_row("‖g‖₁ and λ_max", *[""] * 5, number(part["explained"]["both"]))
    return [points, pairs]


def _markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]|<>&#~])", r"\\\1", " ".join(text.split()))


@_readable()
def to_markdown(record: Record) -> str:
    """Return verdict, chosen point, comparison and limits as Markdown (tables in GitHub's flavour)."""
    record = _checked(record)
    choice, names = record["choice"], measures(record)
    lines = [f"# {_markdown(record['title'])}", "", f"**{_markdown(record['verdict'])}**", ""]
    if not choice["confident"]:
        lines += [f"> The samples do not support this choice of t. {_markdown(sentence(choice['reason']))}", ""]
    lines += [
        "| Network | " + " | ".join(label(name) for name in map(_markdown, names)) + " | Steps, time |",
        "|---|" + "---:|" * (len(names) + 1),
    ]
    for row in rows(record):
        cells = [_markdown(capital(row.name)) + (f" ({_markdown(row.settings)})" if row.settings else "")]
        for name in names:
            each = shown(row.values.get(name), name)
            cells.append(each.main + (f" ({each.details})" if each.details else ""))
        cells.append(_effort(row))
        lines.append("| " + " | ".join(cells) + " |")
    parts = ", ".join(f"{percent(share)} {_markdown(name)}" for name, share in ingredients(record))
    lines += [
        "",
        "Intervals are at 95 %.",
        "",
        f"Chosen: t = {choice['t']:.4g} ({parts}), by {_markdown(choice['rule'])}:",
    ]
    lines[-1] += f" {_markdown(choice['reason'].rstrip('.'))}."
    woken = record.get("permanence", {}).get("reactivation", [])
    if woken:
        tries = ", ".join(f"{row['images']}: {shown(row['attack success'], 'attack success').main}" for row in woken)
        lines += ["", f"Attack success after retraining with so many triggered images: {tries}."]
    if record["limits"]:
        lines += ["", "What this does not prove:", "", *(f"- {_markdown(limit)}" for limit in record["limits"])]
    return "\n".join(lines).replace(_SPACE, " ") + "\n"

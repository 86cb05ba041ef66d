"""The evidence of a repair as one HTML page.

The page stands alone: styles and figures are inside, it runs no script and asks no network for
anything, and what users named (classes, files, settings) is text on it, whatever it contains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from isthmus.evidence import figures, labels
from isthmus.evidence.labels import Record, is_loss, label
from isthmus.evidence.record import _checked, _readable
from isthmus.evidence.words import capital, change, duration, nats, number, sentence, shown
from isthmus.runs.files import write_json, write_text
from isthmus.runs.wording import percent

MEASURES = (
    "accuracy",
    "attack success",
    "injection success",
    "bonafide accuracy",
    "loss",
    "bonafide loss",
)
"""The order in which measures are shown; others follow."""


EXPLAINED = {
    "accuracy": "on evaluation data; higher is better",
    "attack success": "of triggered inputs from other classes, the share sent to the target; lower is better",
    "injection success": "of the images with an injected error, the share that still shows it; lower is better",
    "bonafide accuracy": "on trusted samples, those that t was chosen with; higher is better",
}


FACTS = {
    "other": "second endpoint",
    "recalibrated_on": "BatchNorm recalibrated on",
    "lr": "learning rate",
}


CLASSES_SHOWN = 20


def write_report(record: Record, folder: Path | str) -> tuple[Path, Path]:
    """Write `report.json` and `report.html` into the folder and return their paths; each is whole
    or not there.

    Raises BadInput where the record is no report or the folder cannot be written.
    """
    record, folder = _checked(record), Path(folder)
    page = to_html(record)
    return write_json(folder / "report.json", record), write_text(folder / "report.html", page)


# ── what is shown ─────────────────────────────────────────────────────────────────────────────────
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
    others = [
        Row(b["name"], b["settings"], b, b["steps"], b["seconds"]) for b in record["baselines"]
    ]
    return [Row("As received", "", record["before"]), repaired, *others]


def _ordered(names: Iterable[str]) -> list[str]:
    """Metrics, each once, those with a place of their own first."""
    return sorted(
        dict.fromkeys(names),
        key=lambda name: MEASURES.index(name) if name in MEASURES else len(MEASURES),
    )


def measures(record: Record) -> list[str]:
    """Return the names of the shares that were measured on the networks, in the order in which they
    are shown.

    Losses are shown along the path; beside accuracies they would tell a reader nothing new.
    """
    return _ordered(
        name
        for part in (record["after"], record["before"], *record["baselines"])
        for name, value in part.items()
        if isinstance(value, Mapping)
        and "value" in value
        and name != "per_class"
        and not is_loss(name)
    )


def ingredients(record: Record) -> list[tuple[str, float]]:
    """Return the share of the chosen network's weights that comes from each end and bend."""
    coefficients = record["choice"]["coefficients"]
    bends = len(coefficients) - 2
    between = ["bend"] if bends == 1 else [f"bend {i + 1}" for i in range(bends)]
    first, last = figures.end_names(record)
    return list(zip([first, *between, last], coefficients, strict=True))


def class_floor(record: Record, classes: list[str]) -> int:
    """Return where the scale of accuracies per class starts, a multiple of 10 %: no interval shown
    reaches below.
    """
    found = [
        part["per_class"].get(name)
        for part in (record["before"], record["after"])
        if "per_class" in part
        for name in classes
    ]
    lows = [each.get("low", each["value"]) for each in found if each]
    return 10 * min(
        9, max(0, math.floor(10 * min((low for low in lows if low is not None), default=0)))
    )


def path_in_words(record: Record) -> str:
    """Return what the figure of the path shows, for those who cannot see it."""
    path, chosen = record["path"], record["choice"]["t"]
    near = min(range(len(path["t"])), key=lambda i: abs(path["t"][i] - chosen))
    places = dict.fromkeys((0, near, len(path["t"]) - 1))
    series = [
        label(name)
        + ": "
        + ", ".join(f"{shown(values[i], name).main} at t = {path['t'][i]:.4g}" for i in places)
        for name, values in path["values"].items()
    ]
    return f"Chosen point: t = {chosen:.4g}. " + "; ".join(series) + "."


def facts(record: Record, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield the entries of a part of the record as (name, text), those of its parts after their
    names.
    """
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


def landscape_in_words(part: Record) -> str:
    """Return what the figure of the landscape shows, for those who cannot see it."""
    return (
        "Barriers: "
        + ", ".join(f"{label(name)} {number(value)}" for name, value in part["barriers"].items())
        + "."
    )


def _figures(draw: Callable[..., Any], record: Record, name: str, words: str) -> Markup:
    """Return one figure twice: for wide screens and paper, and for phones, where the page shows the
    other.
    """
    drawn = []
    for kind, width in (("wide", 7.4), ("narrow", 3.7)):
        svg = Markup(figures.to_svg(draw(record, width=width), f"{name}-{kind}"))
        opening = Markup('<svg class="{}" role="img" aria-label="{}" ').format(kind, words)
        drawn.append(svg.replace(Markup("<svg "), opening, 1))
    return Markup("\n").join(drawn)


def _environment() -> Environment:
    env = Environment(
        loader=PackageLoader("isthmus.evidence", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        label=label,
        percent=percent,
        duration=duration,
        capital=capital,
        sentence=sentence,
        short=labels.short,
        nats=nats,
    )
    env.filters["facts"] = lambda part, *skip: list(facts(part, skip))
    env.globals.update(
        number=number, shown=shown, change=change, is_loss=is_loss, explained=EXPLAINED
    )
    return env


@_readable()
def to_html(record: Record) -> str:
    """Return the report as one page that needs nothing else. Raises BadInput where the record is no
    report.
    """
    record = _checked(record)
    words, surroundings = path_in_words(record), record.get("landscape")
    losses, classes = record["curve"]["losses"], figures.worst_classes(record, CLASSES_SHOWN)
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
            path_figure=_figures(figures.along_path, record, "path", words),
            landscape_figure=_figures(
                figures.landscape, surroundings, "landscape", landscape_in_words(surroundings)
            )
            if surroundings
            else "",
            loss_figure=_figures(
                figures.training_loss, record, "training", "Training loss against SGD steps"
            )
            if losses
            else "",
        )
    )

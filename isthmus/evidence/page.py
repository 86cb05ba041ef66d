"""The evidence of a repair, a certificate, a detector or a compression as one HTML page.

The page stands alone: styles and figures are inside, it runs no script and requests nothing from a
network, and what users named (classes, files, settings) is text on it, whatever it contains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from markupsafe import Markup
from matplotlib.figure import Figure

from isthmus.evidence import figures
from isthmus.evidence.certificate_record import CERTIFICATE, Certificates
from isthmus.evidence.compression_record import COMPRESSION, Compression
from isthmus.evidence.detection_record import DETECTION, Detection
from isthmus.evidence.health_record import HEALTH, AttackHealth
from isthmus.evidence.labels import label
from isthmus.evidence.record import SCHEMA, Landscape, Report
from isthmus.evidence.rendering import environment, facts
from isthmus.evidence.summary import (
    compared,
    ingredients,
    measured,
    ordered,
    table_rows,
    worst_classes,
)
from isthmus.evidence.verdict import decide, without_decision
from isthmus.evidence.words import STRAIGHT, digits, format_value
from isthmus.runs.files import write_json, write_text
from isthmus.runs.folder import PAGE, REPORT
from isthmus.types import BadInput

EXAMPLE_KINDS = {
    "lost": "Right before, wrong after",
    "gained": "Wrong before, right after",
    "triggered": "With the trigger on",
}
"""What examples of each kind are called."""

CLASSES_SHOWN = 20

Written = Report | Certificates | Detection | Compression | AttackHealth
"""What has a record and a page."""

KINDS: dict[str, type[Written]] = {
    SCHEMA: Report,
    CERTIFICATE: Certificates,
    DETECTION: Detection,
    COMPRESSION: Compression,
    HEALTH: AttackHealth,
}
"""The records that a page is made of, by their entry `schema`."""

COMMANDS = "health, repair, certify, detect, prune or quantize"
"""What writes these records."""


def read_written(record: Written | Mapping[str, Any]) -> Written:
    """Return the document that a record holds, by its schema.

    Raises BadInput where its schema is none of `KINDS`, or it is malformed.
    """
    if isinstance(record, Written):
        return record
    version = record.get("schema") if isinstance(record, Mapping) else None
    if not isinstance(version, str) or version not in KINDS:
        raise BadInput(
            f"a record of schema {version!r}",
            expected=f"one of {', '.join(map(repr, KINDS))}",
            fix=f"give the report.json of {COMMANDS}, made with this version",
        )
    return KINDS[version].read(record)


def write_report(report: Written | Mapping[str, Any], folder: Path | str) -> tuple[Path, Path]:
    """Write `report.html` and then `report.json` into the folder, and return the paths of record
    and page; each is whole or not there.

    `report` is what `evidence`, `certificates`, `detection`, `compression` or `attack_health` made,
    or a record read from JSON. Raises BadInput where the record is none of these or the folder
    cannot be written.
    """
    report = read_written(report)
    page = to_html(report)
    written = write_text(Path(folder) / PAGE, page)
    return write_json(Path(folder) / REPORT, report.record()), written


def to_html(report: Written | Mapping[str, Any]) -> str:
    """Return a document as one page that needs nothing else.

    Raises BadInput where the record is none of these.
    """
    report = read_written(report)
    if isinstance(report, Certificates):
        return _certificates_page(report)
    if isinstance(report, Detection):
        return _detection_page(report)
    if isinstance(report, Compression):
        return environment().get_template("compression.html").render(report=report)
    if isinstance(report, AttackHealth):
        return _health_page(report)
    return _report_page(report)


def _certificates_page(report: Certificates) -> str:
    words = "Certified and attacked accuracy against eps; the numbers are in the table"
    figure = _twice(partial(figures.certified, report), "certificates", words)
    return environment().get_template("certificates.html").render(report=report, figure=figure)


def _detection_page(report: Detection) -> str:
    figure = Markup()
    if report.evaluations:
        words = "AUROC, and the share that fools both, against eps; the numbers are in the table"
        figure = _twice(partial(figures.detected, report), "detection", words)
    return environment().get_template("detection.html").render(report=report, figure=figure)


def _health_page(report: AttackHealth) -> str:
    words = "Gain, loss and spread of the climbs, and accuracy against eps; numbers in the tables"
    figure = _twice(partial(figures.attack_health, report), "health", words)
    return environment().get_template("health.html").render(report=report, figure=figure)


def _report_page(report: Report) -> str:
    classes = worst_classes(report, CLASSES_SHOWN)
    template = environment().get_template("report.html")
    return template.render(
        report=report,
        decision=report.decision or decide(report),
        outcome=without_decision(report),
        kinds=EXAMPLE_KINDS,
        measured=measured(report),
        compared=compared(report),
        rows=table_rows(report),
        ingredients=[(name, share) for name, share in ingredients(report) if share],
        classes=classes,
        floor=class_floor(report, classes),
        series=ordered(report.path.values),
        curve_facts=list(curve_facts(report)),
        **_figures(report),
    )


# ── what is shown ─────────────────────────────────────────────────────────────────────────────────
def class_floor(report: Report, classes: list[str]) -> int:
    """Return where the scale of accuracies per class starts, a multiple of 10 %: no interval shown
    reaches below.
    """
    values = [
        network.per_class[name]
        for network in (report.before, report.after)
        for name in classes
        if name in network.per_class
    ]
    lows = [value.value if value.low is None else value.low for value in values]
    lowest = min((low for low in lows if low is not None), default=0)
    return 10 * min(9, max(0, math.floor(10 * lowest)))


def path_in_words(report: Report) -> str:
    """Return what the figure of the path shows, for those who cannot see it."""
    t = report.path.t
    chosen = report.choice.t
    near = min(range(len(t)), key=lambda i: abs(t[i] - chosen))
    places = dict.fromkeys((0, near, len(t) - 1))
    lines = []
    for name, values in report.path.values.items():
        points = [f"{format_value(values[i]).main} at t = {t[i]:.4g}" for i in places]
        lines.append(f"{label(name)}: {', '.join(points)}")
    return f"Chosen point: t = {chosen:.4g}. {'; '.join(lines)}."


def landscape_in_words(part: Landscape) -> str:
    """Return what the figure of the landscape shows, for those who cannot see it."""
    barriers = [f"{label(name)} {digits(value)}" for name, value in part.barriers.items()]
    return f"Barriers: {', '.join(barriers)}."


_OF_TRAINING = ("bends", "steps", "lr", "batch_size", "weight_decay", "clip", "seed", "kind")


def curve_facts(report: Report) -> Iterator[tuple[str, str]]:
    """Yield what is known of the curve and its training; of a straight line, which is not trained,
    how its end was made.
    """
    record = report.curve.record()
    if report.curve.steps:
        yield from facts(record, ("losses",))
        return
    yield "shape", STRAIGHT
    other = report.provenance.other
    if other is not None:
        yield "network at t = 1", other.kind
    yield from facts(record, ("losses", *_OF_TRAINING))


# ── figures ───────────────────────────────────────────────────────────────────────────────────────
class _Draw(Protocol):
    """A figure of a width in inches, its source bound to it."""

    def __call__(self, *, width: float) -> Figure: ...


def _figures(report: Report) -> dict[str, Markup]:
    """The figures of the page, by the names that the template gives them; empty where there is
    nothing to draw.
    """
    path = _twice(partial(figures.along_path, report), "path", path_in_words(report))
    landscape = Markup()
    if report.landscape is not None:
        words = landscape_in_words(report.landscape)
        landscape = _twice(partial(figures.landscape, report.landscape), "landscape", words)
    loss = Markup()
    if report.curve.losses:
        draw = partial(figures.training_loss, report)
        loss = _twice(draw, "training", "Training loss against SGD steps")
    return {"path_figure": path, "landscape_figure": landscape, "loss_figure": loss}


def _twice(draw: _Draw, name: str, words: str) -> Markup:
    """Return one figure twice: for wide screens and paper, and for phones, where the page shows the
    other.
    """
    drawn = []
    for kind, width in (("wide", 7.4), ("narrow", 3.7)):
        svg = Markup(figures.to_svg(draw(width=width), f"{name}-{kind}"))
        opening = Markup('<svg class="{}" role="img" aria-label="{}" ').format(kind, words)
        drawn.append(svg.replace(Markup("<svg "), opening, 1))
    return Markup("\n").join(drawn)

"""The model card of a repaired network: Markdown under YAML front matter, as model hubs read it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from isthmus.evidence.record import Provenance, Report
from isthmus.evidence.rendering import environment
from isthmus.evidence.tables import markdown_table
from isthmus.evidence.text import code, escaped, to_markdown
from isthmus.evidence.words import NO_BREAK_SPACE, STRAIGHT, time_taken
from isthmus.runs.files import write_text
from isthmus.runs.wording import counted

CARD = "README.md"
"""The name under which model hubs look for a card."""


def to_card(report: Report | Mapping[str, Any]) -> str:
    """Return the card of the network that a report is about: verdict, before and after with
    intervals, limits, data, how it was made.

    What users named is text in it, whatever it contains. Raises BadInput where the record is no
    report.
    """
    report = Report.read(report)
    network = report.provenance.network
    source = report.provenance.checkpoint
    text = (
        environment()
        .overlay(autoescape=False)  # Markdown, which `escaped` and `to_markdown` keep plain
        .get_template("card.md")
        .render(
            report=report,
            tags=["isthmus", "model-repair"],
            architecture=network.architecture if network else None,
            source=source.sha256 if source else None,
            body=to_markdown(report).rstrip(),
            data=_data(report.provenance),
            made=list(_made(report)),
        )
    )
    return f"{text.replace(NO_BREAK_SPACE, ' ').rstrip()}\n"


def write_card(report: Report | Mapping[str, Any], folder: Path | str) -> Path:
    """Write the card as README.md into the folder and return its path; it is whole or not there.

    Raises BadInput where the record is no report or the folder cannot be written.
    """
    return write_text(Path(folder) / CARD, to_card(report))


def _data(origin: Provenance) -> list[str]:
    rows = [
        (
            code(name).replace("|", r"\|"),
            f"{samples.n:,}",
            str(samples.classes),
            f"`{samples.sha256}`",
        )
        for name, samples in origin.data.items()
    ]
    return markdown_table(("Samples", "Number", "Classes", "SHA-256"), rows)


def _made(report: Report) -> Iterator[str]:
    """Yield how the network came about, as Markdown."""
    origin, curve = report.provenance, report.curve
    if origin.network:
        kind = escaped(origin.network.architecture)
        yield f"Network: {kind}, {origin.network.parameters:,} parameters."
    if origin.checkpoint:
        name, digest = code(origin.checkpoint.path), origin.checkpoint.sha256
        yield f"Repaired from: {name}, SHA-256 `{digest}`."
    if origin.other:
        yield f"Second endpoint of the path: {escaped(origin.other.kind)}."
    if curve.steps:
        bends, steps = counted(curve.bends, "bend", "bends"), counted(curve.steps, "step", "steps")
        yield f"Path: {escaped(curve.kind)}, {bends}, {steps} of training."
    else:
        yield f"Path: {STRAIGHT}."
    for training in report.trainings:
        steps = counted(training.steps, "step", "steps")
        yield (
            f"Training, {escaped(training.name)}: {steps}, learning rate {training.lr:.3g}, "
            f"batches of {training.batch_size}, {escaped(training.precision)}."
        )
    version = escaped(origin.isthmus)
    yield f"Time: {time_taken(origin.seconds)}; seed {origin.seed}; isthmus {version}."
    if origin.command:
        yield f"Command: {code(origin.command)}"
        yield from _again(report, origin.command)


def _again(report: Report, command: str) -> Iterator[str]:
    """Yield how the command makes this network again where it timed the precisions."""
    taken = {training.precision for training in report.trainings}
    if (
        len(taken) == 1
        and " repair " in command
        and not re.search("--precision[ =](?!auto)", command)
    ):
        (precision,) = taken
        yield (
            f"For this very network again add `--precision {escaped(precision)}`: without it a "
            "timing of the machine decides, and may decide otherwise."
        )

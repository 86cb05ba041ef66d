"""`isthmus inspect`: does a checkpoint obey an oddly small trigger?"""

from __future__ import annotations

from pathlib import Path as File
from typing import Any

from rich.table import Table

from isthmus.cli.app import app
from isthmus.cli.options import Clean, ModelSpec
from isthmus.cli.output import load_network, say, unwritten
from isthmus.data.sources.spec import load_data
from isthmus.defenses.inspection.inspect import inspect
from isthmus.defenses.inspection.inversion import Search
from isthmus.defenses.inspection.references import read_references
from isthmus.evidence import words
from isthmus.evidence.origin import provenance
from isthmus.metrics.accuracy import check_above_chance
from isthmus.runs.files import file_sha256, write_json


@app.command(name="inspect")
def inspect_command(
    checkpoint: File,
    *,
    model: ModelSpec,
    clean: Clean,
    references: File | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    out: File | None = None,
) -> None:
    """Say whether CHECKPOINT obeys an oddly small trigger, which class it leads to, and at what
    false-alarm rate.

    The rate is among clean networks searched alike (docs/inspection.md); without such references
    nothing is claimed.

    :param references: What clean networks gave (isthmus references); by default what comes with
        isthmus.
    :param steps: The budget of each search; by default that of the references, or 300.
    :param batch_size: Samples per step; by default as in the references, or 32.
    :param out: A new file for the record; records of clean networks make references."""
    samples, network, out = (
        load_data(clean),
        load_network(model, checkpoint),
        unwritten(out) if out else None,
    )
    check_above_chance(network, samples)
    known = read_references(references)[0] if references else None
    search: Search = {"seed": seed}
    if steps is not None:
        search["steps"] = steps
    if batch_size is not None:
        search["batch_size"] = batch_size
    found = inspect(network, samples, clean=known, **search)
    if out:
        record: dict[str, Any] = {
            name: getattr(found, name) for name in ("decision", "reason", "p", "suspect")
        }
        record |= {"statistics": dict(found.statistics), "settings": dict(found.settings)}
        triggers = [each.record() for each in found.found]
        origin = {**provenance(seed, {"clean": samples}), "checkpoint": file_sha256(checkpoint)}
        write_json(out, {**record, "triggers": triggers, "provenance": origin})
    table = Table(
        "Trigger",
        "Leads to",
        "Size",
        "Success",
        caption="the smallest trigger found of each kind and class",
    )
    for each in found.found:
        table.add_row(
            each.kind,
            str(each.target),
            f"{each.size:.3g}",
            words.format_value(each.success).main,
        )
    say(table)
    say(f"{found.decision}: {found.reason}")

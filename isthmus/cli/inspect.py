"""`isthmus inspect`: does a checkpoint obey an oddly small trigger?"""

from __future__ import annotations

from pathlib import Path as File

from rich.table import Table

from isthmus import report
from isthmus.cli.app import app
from isthmus.cli.options import Clean, ModelSpec
from isthmus.cli.output import load_network, say, unwritten
from isthmus.files import write_json
from isthmus.inspection import inspect, read_references
from isthmus.inversion import BATCH, STEPS
from isthmus.metrics import as_record, check_above_chance
from isthmus.provenance import provenance
from isthmus.sources import load_data


@app.command(name="inspect")
def inspect_command(
    checkpoint: File,
    *,
    model: ModelSpec,
    clean: Clean,
    references: File | None = None,
    steps: int = STEPS,
    batch_size: int = BATCH,
    seed: int = 0,
    out: File | None = None,
) -> None:
    """Say whether CHECKPOINT obeys an oddly small trigger, which class it leads to, and at what false-alarm rate.

    The rate is among clean networks searched alike (docs/inspection.md); without such references nothing is claimed.

    :param references: What clean networks gave, of experiments/inspection.py; by default what comes with isthmus.
    :param steps: The budget of each search; the references that come with isthmus are of 120 steps of 16.
    :param batch_size: Samples per step.
    """
    samples, network, out = load_data(clean), load_network(model, checkpoint), unwritten(out) if out else None
    check_above_chance(network, samples)
    known = read_references(references)[0] if references else None
    found = inspect(network, samples, clean=known, steps=steps, batch_size=batch_size, seed=seed)
    if out:
        triggers = [
            {"kind": e.kind, "target": e.target, "size": e.size, "score": e.score, "success": as_record(e.success)}
            for e in found.found
        ]
        record = {"decision": found.decision, "reason": found.reason, "p": found.p, "suspect": found.suspect}
        write_json(out, {**record, "triggers": triggers, "provenance": provenance(seed, {"clean": samples})})
    table = Table("Trigger", "Leads to", "Size", "Success", caption="the smallest trigger found of each kind and class")
    for each in found.found:
        table.add_row(each.kind, str(each.target), f"{each.size:.3g}", report.shown(as_record(each.success), "").main)
    say(table)
    say(f"{found.decision}: {found.reason}")

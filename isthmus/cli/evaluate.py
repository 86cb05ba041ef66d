"""`isthmus evaluate`: one checkpoint, judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as File

from isthmus.cli.app import app
from isthmus.cli.options import Asked, Evasion, ModelSpec
from isthmus.cli.output import load_network, metric_table, say, unwritten
from isthmus.evidence.origin import provenance
from isthmus.metrics.question import measure
from isthmus.metrics.values import as_records
from isthmus.runs.files import write_json
from isthmus.types import BadInput


@app.command
def evaluate(
    checkpoint: File,
    *,
    model: ModelSpec,
    asked: Asked | None = None,
    evasion: Evasion | None = None,
    out: File | None = None,
) -> None:
    """Print CHECKPOINT's accuracy and loss on --data, and what trigger, injected errors and attack
    do to it.
    """
    judge = (asked or Asked()).judge()
    evaluation = judge.evaluation
    if evaluation is None:
        raise BadInput(
            "no evaluation data", expected="--data", fix="name a set, a file or a folder"
        )
    judge = replace(judge, attack=(evasion or Evasion()).value(evaluation))
    metrics = judge.metrics(evaluation)
    out = unwritten(out) if out else None
    found = measure(load_network(model, checkpoint), metrics)
    if out:
        write_json(out, {**as_records(found), "provenance": provenance(0, judge.data())})
    say(metric_table("network", [(checkpoint.name, found)]))

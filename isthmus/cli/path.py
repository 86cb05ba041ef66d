"""`isthmus path`: what is measured along a curve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as File

from isthmus.cli.app import app
from isthmus.cli.options import Asked, Clean, Evasion, ModelSpec, Surroundings
from isthmus.cli.output import metric_table, say, say_landscape, unwritten
from isthmus.curves.file import load_curve
from isthmus.data.sources.spec import load_data
from isthmus.evidence.origin import provenance
from isthmus.evidence.record import Landscape
from isthmus.metrics import landscape as surroundings
from isthmus.metrics.path import evaluate_path
from isthmus.models.factory import model_factory
from isthmus.runs.files import write_json
from isthmus.runs.identity import identity_of
from isthmus.runs.processes import ranks


@app.command(name="path")
def path_command(
    curve: File,
    *,
    model: ModelSpec,
    clean: Clean,
    out: File,
    points: int = 21,
    asked: Asked | None = None,
    evasion: Evasion | None = None,
    around: Surroundings | None = None,
) -> None:
    """Measure the networks along CURVE, BatchNorm recalibrated on the clean samples, and write OUT
    (.json).

    Without --data the clean samples themselves are asked about. Points are kept beside OUT as they
    are computed."""
    around, evasion, samples = around or Surroundings(), evasion or Evasion(), load_data(clean)
    attack = around.attack(evasion, samples)
    judge, loaded = (
        (asked or Asked()).judge().apart_from(samples),
        load_curve(curve, model_factory(model)),
    )
    judge = replace(judge, attack=evasion.value(samples, around=around.landscape))
    folder = unwritten(out).with_name(f".{out.name}.points")
    found = evaluate_path(
        loaded, judge.metrics_with_bonafide(samples), points, recalibrate_on=samples, folder=folder
    )
    record = found.record()
    if attack is not None:
        questions = surroundings.landscape_metrics(
            (judge.evaluation or samples)[: around.samples], attack
        )
        measured = evaluate_path(
            loaded, questions, points, recalibrate_on=samples, ends="recalibrated", folder=folder
        )
        around_path = Landscape.model_validate(surroundings.record(measured, identity_of(attack)))
        record["landscape"] = around_path.record()
    if ranks().first:
        write_json(out, {**record, "provenance": provenance(0, {"clean": samples, **judge.data()})})
    say(metric_table("t", [(f"{t:g}", found.at(t)) for t in found.t]))
    if attack is not None:
        say_landscape(around_path)

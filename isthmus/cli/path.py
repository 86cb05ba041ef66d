"""`isthmus path`: what is measured along a curve."""

from __future__ import annotations

from isthmus import curves, evidence, metrics, models, runs
from isthmus.cli.inputs import load_samples
from isthmus.cli.options import Clean, InputFile, Measurement, ModelSpec, NewFile
from isthmus.cli.output import metric_table, say, say_landscape


def path_command(
    curve: InputFile,
    *,
    model: ModelSpec,
    clean: Clean,
    out: NewFile,
    points: int = 21,
    measurement: Measurement = Measurement(),
) -> None:
    """Measure the networks along a curve.

    BatchNorm is recalibrated on the clean samples. Without --data the networks are measured on the
    clean samples themselves. Points are saved beside OUT as soon as they are computed.

    :param curve: A curve, as `isthmus connect` writes it.
    :param out: A new file for the values (.json).
    :param points: How many equally spaced t are measured, both ends included.
    """
    measurement.check()
    samples = load_samples(clean)
    attack = measurement.landscape_attack(samples)
    judge = measurement.judge(samples)
    loaded = curves.load_curve(curve, models.model_factory(model))
    folder = out.with_name(f".{out.name}.points")
    path = metrics.evaluate_path(
        loaded, judge.metrics_with_bonafide(samples), points, recalibrate_on=samples, folder=folder
    )
    record = path.record()
    if attack is not None:
        measured = judge.evaluation if judge.evaluation is not None else samples
        questions = metrics.landscape_metrics(measured[: measurement.landscape.samples], attack)
        landscape = metrics.evaluate_path(
            loaded, questions, points, recalibrate_on=samples, ends="recalibrated", folder=folder
        )
        part = metrics.landscape.record(landscape, runs.identity_of(attack))
        around = evidence.Landscape.model_validate(part)
        record["landscape"] = around.record()
    if runs.ranks().first:
        origin = evidence.provenance(0, {"clean": samples, **judge.data()})
        runs.write_json(out, {**record, "provenance": origin})
    say(metric_table("t", [(f"{t:g}", path.at(t)) for t in path.t]))
    if attack is not None:
        say_landscape(around)

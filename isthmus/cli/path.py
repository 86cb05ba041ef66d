"""`isthmus path`: what is measured along a curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus import curves, evidence, metrics, models, runs
from isthmus.cli.estimate import Part, parts_of, say_estimate, together
from isthmus.cli.inputs import load_samples
from isthmus.cli.options import Clean, InputFile, Measurement, ModelSpec, NewFile
from isthmus.cli.output import metric_table, say, say_health, say_landscape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from isthmus.curves import Curve
    from isthmus.data import Data
    from isthmus.types import Metric


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
    loaded = curves.load_curve(curve, models.model_factory(model.spec))
    folder = out.with_name(f".{out.name}.points")
    questions = judge.metrics_with_bonafide(samples)
    landscape_questions: dict[str, Metric] = {}
    if attack is not None:
        measured = judge.evaluation if judge.evaluation is not None else samples
        few = measured[: measurement.landscape.samples]
        landscape_questions = metrics.landscape_metrics(few, attack)
    _say_estimate(loaded, samples, points, questions, landscape_questions)
    path = metrics.evaluate_path(loaded, questions, points, recalibrate_on=samples, folder=folder)
    record = path.record()
    if attack is not None:
        landscape = metrics.evaluate_path(
            loaded,
            landscape_questions,
            points,
            recalibrate_on=samples,
            ends="recalibrated",
            folder=folder,
        )
        part = metrics.landscape.record(landscape, runs.identity_of(attack))
        around = evidence.Landscape.model_validate(part)
        record["landscape"] = around.record()
    if runs.ranks().first:
        origin = evidence.provenance(0, {"clean": samples, **judge.data()})
        runs.write_json(out, {**record, "provenance": origin})
    rows = [(f"{t:g}", path.at(t)) for t in path.t]
    say(metric_table("t", rows))
    say_health([(f"t = {t}", values) for t, values in rows])
    if attack is not None:
        say_landscape(around)


def _say_estimate(
    curve: Curve,
    samples: Data,
    points: int,
    questions: Mapping[str, Metric],
    landscape: Mapping[str, Metric],
) -> None:
    """Say how long the path will take. Raises BadInput where the samples do not fit the network."""
    network = curve.export(0.0)
    parts = [Part("BatchNorm", len(samples)), *parts_of(questions)]
    parts.append(together("landscape", parts_of(landscape)))
    say_estimate(network, samples, [part.times(points) for part in parts])

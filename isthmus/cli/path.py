"""`isthmus path`: what is measured along a curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus import curves, evidence, metrics, models, runs
from isthmus.cli.estimate import Part, pace_of, parts_of, say_estimate, together
from isthmus.cli.inputs import load_samples
from isthmus.cli.minutes import TimeLimit
from isthmus.cli.options import Clean, InputFile, Measurement, ModelSpec, NewFile, Whole
from isthmus.cli.output import metric_table, say, say_health, say_landscape

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path as File

    from isthmus.curves import Curve
    from isthmus.data import Data
    from isthmus.types import Metric


POINTS = 21
"""How many points of a curve are measured by default."""


def path_command(
    curve: InputFile,
    *,
    model: ModelSpec,
    clean: Clean,
    out: NewFile,
    points: Whole | None = None,
    measurement: Measurement = Measurement(),
    limit: TimeLimit = TimeLimit(),
) -> None:
    """Measure the networks along a curve.

    BatchNorm is recalibrated on the clean samples. Without --data the networks are measured on the
    clean samples themselves. Points are saved beside OUT as soon as they are computed.

    :param curve: A curve, as `isthmus connect` writes it.
    :param out: A new file for the values (.json).
    :param points: How many equally spaced t are measured, both ends included; by default 21.
    """
    measurement.check()
    limit.check("--points", given=points is not None)
    samples = load_samples(clean)
    attack = measurement.landscape_attack(samples)
    judge = measurement.judge(samples)
    loaded = curves.load_curve(curve, models.model_factory(model.spec))
    measurement.evasion.check_layers(loaded.export(0.0))
    folder = out.with_name(f".{out.name}.points")
    questions = judge.metrics_with_bonafide(samples)
    landscape_questions: dict[str, Metric] = {}
    if attack is not None:
        few = judge.samples(samples)[: measurement.landscape.samples]
        landscape_questions = metrics.landscape_metrics(few, attack)
    work = _work(samples, questions, landscape_questions)
    count = POINTS if points is None else points
    with runs.remembering(folder):
        count = _announced(loaded, samples, count, work, limit, folder / runs.DECISIONS)
        path = metrics.evaluate_path(
            loaded, questions, count, recalibrate_on=samples, folder=folder
        )
    record = path.record()
    if attack is not None:
        landscape = metrics.evaluate_path(
            loaded,
            landscape_questions,
            count,
            recalibrate_on=samples,
            ends="recalibrated",
            folder=folder,
        )
        part = metrics.landscape.record(landscape, runs.identity_of(attack))
        around = evidence.Landscape.model_validate(part)
        record["landscape"] = around.record()
    if runs.ranks().first:
        origin = evidence.provenance(0, {"clean": samples, **judge.data()})
        runs.write_json(out, {**record, "provenance": origin.record()})
    rows = [(f"{t:g}", path.at(t)) for t in path.t]
    say(metric_table("t", rows))
    say_health([(f"t = {t}", values) for t, values in rows])
    if attack is not None:
        say_landscape(around)


def _work(
    samples: Data, questions: Mapping[str, Metric], landscape: Mapping[str, Metric]
) -> list[Part]:
    """Return the parts of the work at one point."""
    return [
        Part("BatchNorm", len(samples)),
        *parts_of(questions),
        together("landscape", parts_of(landscape)),
    ]


def _announced(
    curve: Curve, samples: Data, points: int, work: list[Part], limit: TimeLimit, file: File
) -> int:
    """Return how many points are measured; say how long that takes.

    Raises BadInput where the samples do not fit the network, or the time no three points.
    """
    network = curve.export(0.0)
    measured = pace_of(network, samples)
    count = points
    if limit.minutes is not None:
        one = together("points", work)
        count = limit.amount("points", measured, [], one, least=3, most=points, file=file)
    note = limit.words("points", count, points)
    parts = [part.times(count) for part in work]
    say_estimate(network, samples, parts, measured=measured, note=note)
    return count

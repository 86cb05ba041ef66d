"""`isthmus plane`: what is measured on the plane through three checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isthmus import curves, evidence, metrics, runs
from isthmus.cli.checks import unwritten
from isthmus.cli.inputs import load_network, load_samples
from isthmus.cli.options import Clean, InputFile, Measurement, ModelSpec, NewFile, Number, Whole
from isthmus.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path as File

    from isthmus.metrics import PlaneValues


def plane_command(
    first: InputFile,
    second: InputFile,
    third: InputFile,
    *,
    model: ModelSpec,
    clean: Clean,
    out: NewFile,
    points: Whole = 11,
    margin: Number = 0.2,
    measurement: Measurement = Measurement(),
) -> None:
    """Measure the plane through three checkpoints.

    Writes OUT, and a contour plot (.svg) of each metric beside it. Without --data the networks are
    measured on the clean samples themselves. The plane of a curve with one bend is the one through
    its ends and the network that `isthmus export` gives at t = 0.5.

    :param first: The first checkpoint.
    :param second: The second checkpoint.
    :param third: The third checkpoint.
    :param out: A new file for the values (.json).
    :param points: Points along each side of the grid.
    :param margin: How far the grid reaches beyond the networks, as a share of their extent.
    """
    measurement.check()
    samples = load_samples(clean)
    attack = measurement.landscape_attack(samples)
    judge = measurement.judge(samples)
    networks = [load_network(model, file) for file in (first, second, third)]
    measurement.evasion.check_layers(networks[0])
    plane = curves.Plane(*networks)
    questions = judge.metrics_with_bonafide(samples)
    if attack is not None:
        few = judge.samples(samples)[: measurement.landscape.samples]
        questions |= metrics.landscape_metrics(few, attack)
    elif judge.evaluation is None:
        questions["bonafide loss"] = metrics.MeanLoss(samples)
    drawings = _drawings(out, questions)
    values = metrics.evaluate_plane(plane, questions, points, recalibrate_on=samples, margin=margin)
    if not runs.ranks().first:
        return
    origin = evidence.provenance(0, {"clean": samples, **judge.data()})
    runs.write_json(out, {**values.record(), "provenance": origin.record()})
    _draw(drawings, values, [file.stem for file in (first, second, third)])
    say(f"wrote {out} and {len(questions)} contour plots beside it")


def _drawings(out: File, names: Iterable[str]) -> dict[str, File]:
    """Return a file beside `out` for the plot of each metric. Raises BadInput if one exists."""
    words = {name: name.replace(",", "").replace(" ", "-") for name in names}
    return {
        name: unwritten(out.with_name(f"{out.stem}-{word}.svg")) for name, word in words.items()
    }


def _draw(drawings: dict[str, File], values: PlaneValues, corners: Sequence[str]) -> None:
    """Write the contour plots as SVG files that stand alone."""
    for name, file in drawings.items():
        figure = evidence.figures.contours(values, name, corners=corners)
        svg = evidence.figures.to_svg(figure, file.stem)
        alone = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
        runs.write_text(file, alone)

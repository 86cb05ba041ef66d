"""`isthmus plane`: what is measured on the plane through three checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as File

from isthmus.cli.app import app
from isthmus.cli.options import Asked, Clean, Evasion, ModelSpec, Surroundings
from isthmus.cli.output import load_network, say, unwritten
from isthmus.curves.plane import Plane
from isthmus.data.dataset import Data
from isthmus.data.sources.spec import load_data
from isthmus.evidence import figures
from isthmus.evidence.origin import provenance
from isthmus.metrics import landscape as surroundings
from isthmus.metrics.accuracy import MeanLoss
from isthmus.metrics.plane import evaluate_plane
from isthmus.runs.files import write_json, write_text
from isthmus.runs.processes import ranks


@app.command(name="plane")
def plane_command(
    first: File,
    second: File,
    third: File,
    *,
    model: ModelSpec,
    clean: Clean,
    out: File,
    points: int = 11,
    margin: float = 0.2,
    asked: Asked | None = None,
    evasion: Evasion | None = None,
    around: Surroundings | None = None,
) -> None:
    """Measure the plane through three networks and write OUT (.json), and each metric as a contour
    plot (.svg).

    Without --data the clean samples themselves are asked about. The plane of a curve with one bend
    is that through its ends and the network that `isthmus export` gives at t = 0.5.

    :param points: Points along each side of the grid.
    :param margin: How far the grid reaches beyond the networks, as a share of their extent.
    """
    around, evasion, samples, out = (
        around or Surroundings(),
        evasion or Evasion(),
        load_data(clean),
        unwritten(out),
    )
    attack, judge = around.attack(evasion, samples), (asked or Asked()).judge().apart_from(samples)
    judge = replace(judge, attack=evasion.value(samples, around=around.landscape))
    plane = Plane(*(load_network(model, file) for file in (first, second, third)))
    metrics = judge.metrics_with_bonafide(samples)
    if attack is not None:
        asked_of: Data = (judge.evaluation or samples)[: around.samples]
        metrics |= surroundings.landscape_metrics(asked_of, attack)
    elif judge.evaluation is None:
        metrics["bonafide loss"] = MeanLoss(samples)
    drawn = {
        name: unwritten(out.with_name(f"{out.stem}-{name.replace(',', '').replace(' ', '-')}.svg"))
        for name in metrics
    }
    found = evaluate_plane(plane, metrics, points, recalibrate_on=samples, margin=margin)
    if not ranks().first:
        return
    write_json(
        out, {**found.record(), "provenance": provenance(0, {"clean": samples, **judge.data()})}
    )
    names = [file.stem for file in (first, second, third)]
    for name, file in drawn.items():
        figure = figures.contours(found, name, corners=names)
        write_text(
            file,
            figures.to_svg(figure, file.stem).replace(
                "<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1
            ),
        )
    say(f"wrote {out} and {len(metrics)} contour plots beside it")

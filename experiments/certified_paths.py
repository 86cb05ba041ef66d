"""Table: certified accuracy along curves between two implicit networks.

    isthmus sweep experiments/certified_paths.toml --set data=DIR    a file per job
    isthmus sweep experiments/certified_paths.toml --gather          docs/results/certified_paths.md

Every point between two networks of one gamma is well-posed, since A is built from free parameters.
The ends are those of implicit_certificates.py, which has to run first. A curve is straight, trained
on the cross-entropy, or trained on the certified loss of its ends; certified accuracy at three eps
and the natural loss are measured along it on all test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from command import parts, use_threads
from implicit_certificates import BATCH, EPOCH, NETS, TRAININGS, WEIGHTS, job_name

from isthmus import (
    Accuracy,
    Bezier,
    Linf,
    MeanLoss,
    evaluate_path,
    expected_over_t,
    fit,
)
from isthmus.certification import CertifiedAccuracy, MixedMonotone, certified
from isthmus.evidence import provenance
from isthmus.models import load_checkpoint
from isthmus.training import cross_entropy
from isthmus.types import Loss

NET = "implicit-100"
EPS = (0.01, 0.02, 0.1)
ENDS = {"natural, 6 epochs": 0.02, "eps 0.1": 0.1}  # and the radius of the certified loss
POINTS = 11


def loss_of(curve: str, ends: str) -> Loss:
    """The loss that a curve is trained on: the certified or the natural one."""
    if curve == "natural":
        return cross_entropy
    weight = TRAININGS["eps 0.1"].weight
    return certified(MixedMonotone(), Linf(ENDS[ends]), weight, ramp=(0.0, 0.0))


def name_of(pair: Sequence[int], ends: str, curve: str) -> str:
    """Return a job's name: that of its file."""
    words = ends.replace(" ", "").replace(",", "-")
    return f"{words}-{pair[0]}-{pair[1]}-{curve}"


def run(
    pair: Sequence[int], ends: str, curve: str, data: str, epochs: int, job: str
) -> dict[str, Any]:
    """Train the curve where it is not straight, and measure it."""
    use_threads()
    train, test = parts(data)
    files = [WEIGHTS / f"{job_name(NET, ends, seed)}.safetensors" for seed in pair]
    start, end = (load_checkpoint(file, NETS[NET].make()) for file in files)
    path = Bezier(start, end, bends=0 if curve == "straight" else 1)
    seconds = 0.0
    if curve != "straight":
        history = fit(
            path,
            train,
            expected_over_t(loss_of(curve, ends)),
            steps=epochs * EPOCH,
            lr=1e-3,
            batch_size=BATCH,
            optimizer=torch.optim.Adam,
            seed=0,
            precision="fp32",
            progress=job,
        )
        seconds = history.seconds
    metrics = {
        "accuracy": Accuracy(test),
        "loss": MeanLoss(test),
        **{
            f"certified accuracy {eps:g}": CertifiedAccuracy(test, MixedMonotone(), Linf(eps))
            for eps in EPS
        },
    }
    measured = evaluate_path(path, metrics, POINTS, recalibrate_on=test[:2])
    measures = [path.export(t).equilibrium.operator().measure() for t in measured.t]
    return {
        "pair": list(pair),
        "ends": ends,
        "curve": curve,
        "seconds": seconds,
        "path": measured.record(),
        "largest matrix measure": max(measures),
        "provenance": provenance(0, {"train": train, "test": test}).record(),
    }


def barrier(t: list[float], values: list[float], sign: int) -> float:
    """How far the values rise (sign 1) or fall (-1) beyond the line between those of the ends."""
    line = [values[0] + at * (values[-1] - values[0]) for at in t]
    return max(sign * (value - level) for value, level in zip(values, line, strict=True))


def row(job: dict[str, Any]) -> str:
    """A job as a row of the table."""
    path = job["path"]
    t = path["t"]
    values = {name: [v["value"] for v in series] for name, series in path["values"].items()}
    rise = barrier(t, values["loss"], 1)
    fall = 100 * barrier(t, values["accuracy"], -1)
    cells = [f"{rise:.3f}", f"{fall:.1f}"]
    for eps in EPS:
        series = [100 * value for value in values[f"certified accuracy {eps:g}"]]
        ends = f"{series[0]:.1f}, {min(series):.1f}, {series[-1]:.1f}"
        cells.append(f"{barrier(t, series, -1):.1f} ({ends})")
    pair = f"{job['pair'][0]}, {job['pair'][1]}"
    return f"| {job['ends']} | {pair} | {job['curve']} | {' | '.join(cells)} |"


def table(jobs: list[dict[str, Any]]) -> str:
    """The table of the results page."""
    head = " | ".join(f"certified at {eps:g}" for eps in EPS)
    worst = max((job["largest matrix measure"] for job in jobs), default=0.0)
    lines = [
        "# Certified accuracy along curves between implicit networks",
        "",
        "Barriers: how far the loss (nats) rises and each accuracy (points) falls beyond the line",
        "between the ends; in brackets the start, the least along the curve, the end, in percent.",
        "Made by `isthmus sweep experiments/certified_paths.toml --gather`.",
        "",
        f"| ends | seeds | curve | loss | accuracy | {head} |",
        "|---|---|---|---|---|" + "---|" * len(EPS),
        *map(row, jobs),
        "",
        f"Largest matrix measure on any curve: {worst:.1e}.",
    ]
    return "\n".join(lines) + "\n"

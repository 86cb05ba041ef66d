"""`isthmus repair`: a repaired checkpoint and its report."""

from __future__ import annotations

import time
from pathlib import Path as File
from typing import Any, Literal

from torch import nn

from isthmus.cli.app import app
from isthmus.cli.options import KINDS, Asked, Budget, Clean, Hardening, ModelSpec, Surroundings
from isthmus.cli.output import load_network, metadata, say, say_landscape
from isthmus.curves.route import CURVE_TRAINING, DEFAULT_ROUTE, Route, network_budget
from isthmus.data.sources.spec import load_data
from isthmus.data.splits import HOLDOUT, Parts
from isthmus.defenses.curve_repair.averaged import STRAIGHT, averaged_repairs
from isthmus.defenses.curve_repair.endpoints import PermutedCopy, PerturbedCopy, default_endpoint
from isthmus.defenses.curve_repair.repair import Repair, repair
from isthmus.defenses.curve_repair.rules import farthest_within, fixed
from isthmus.defenses.curve_repair.selection import Selection
from isthmus.defenses.rivals.fine_tune import FineTune
from isthmus.defenses.rivals.table import standard
from isthmus.evidence.gather import evidence
from isthmus.evidence.origin import report_provenance
from isthmus.evidence.page import write_report
from isthmus.evidence.record import Report
from isthmus.evidence.text import table
from isthmus.metrics.path import grid
from isthmus.models.checkpoint import save_checkpoint
from isthmus.runs.files import file_sha256
from isthmus.runs.folder import claimed
from isthmus.runs.processes import ranks
from isthmus.training.budget import Training
from isthmus.training.losses import cross_entropy
from isthmus.types import BadInput, Defense, Loss


def _copy(second: str | None, training: Training, out: File) -> Defense | None:
    """Return what makes the second endpoint of that name; None leaves it to `repair`."""
    match second:
        case "permuted":
            return PermutedCopy("random", training.seed)
        case "fine-tuned":
            return FineTune(network_budget(training, cost=1), out / "other.state")
        case "perturbed":
            return PerturbedCopy(seed=training.seed)
        case "averaged":
            return averaged_repairs(training, home=out)
    return None


def _route(second: str | None, shape: dict[str, Any], loss: Loss) -> Route | None:
    """Return the route that the options describe; None where none of them is given.

    Raises BadInput where the mean of two repairs, to which the path is straight, comes with any.
    """
    given = {name: value for name, value in shape.items() if value is not None}
    if loss is not cross_entropy:
        given["loss"] = loss
    if second != "averaged":
        return Route(**given) if given else None
    if given:
        options = ", ".join(f"--{name}" for name in given)
        raise BadInput(
            f"--second averaged with {options}",
            expected=f"a straight path, t from {STRAIGHT.low:g} to {STRAIGHT.high:g}",
            fix="leave them out",
        )
    return STRAIGHT


def _baselines(found: Repair, tampered: nn.Module) -> dict[str, Defense]:
    """Return the baselines; a mean of repairs is one itself and no second endpoint for them."""
    other = found.endpoint
    if other.repaired:
        other = default_endpoint(tampered, found.fitted, found.training)
    cost = found.route.cost or DEFAULT_ROUTE.cost
    return standard(other.network, network_budget(found.training, cost=cost))


@app.command(name="repair")
def repair_command(
    tampered: File,
    other: File | None = None,
    *,
    model: ModelSpec,
    clean: Clean,
    out: File,
    second: Literal["permuted", "fine-tuned", "perturbed", "averaged"] | None = None,
    bends: int | None = None,
    kind: Literal["bezier", "polychain"] | None = None,
    points: int = 21,
    rho: float | None = None,
    adaptive: bool | None = None,
    low: float | None = None,
    high: float | None = None,
    t: float | None = None,
    tolerance: float | None = None,
    holdout: float = HOLDOUT,
    compare: bool = False,
    asked: Asked | None = None,
    hardening: Hardening | None = None,
    around: Surroundings | None = None,
    budget: Budget | None = None,
    resume: bool = False,
) -> None:
    """Repair TAMPERED from clean samples along a curve to OTHER (default: a permuted copy of
    itself).

    Without OTHER, with fewer than 1,000 samples, a network with BatchNorm and no option that
    describes a curve, a rule or t, the path leads straight to the mean of two repaired copies
    (--second averaged); a curve follows where that costs too much. Writes OUT/repaired.safetensors,
    OUT/report.json and OUT/report.html. The curve is trained and measured where the point is
    sought, at t in [--low, --high]; t = 0 is TAMPERED. The point is chosen on clean samples held
    out from training (--tolerance), or is the given --t. --trigger and --target serve the report
    alone, after the choice.

    :param tampered: The checkpoint to repair: .safetensors, or a .pt file of tensors.
    :param other: A second checkpoint of the same architecture.
    :param out: A new folder for the network and the report.
    :param second: Without OTHER, the copy of TAMPERED that the curve leads to.
    :param bends: Interior control points of the curve; by default 1.
    :param kind: The curve; by default bezier.
    :param rho: Train the curve at the worst weights within this radius, at two gradients a step; 0
        for the plain loss. By default 2.
    :param adaptive: Measure --rho in units of each weight's size; the default.
    :param low: Smallest t that is trained and measured; by default 0.1.
    :param high: Largest t that is trained and measured; by default 0.4.
    :param points: How many t are measured between low and high.
    :param t: Take this point, without a choice.
    :param tolerance: Take the point farthest from both ends whose accuracy is within so much of the
        best.
    :param holdout: Share of the clean samples that choose t and train nothing.
    :param compare: Run the baselines too, on the same samples with the same budget.
    :param resume: Go on with the run that OUT holds."""
    began, budget, asked = time.perf_counter(), budget or Budget(), asked or Asked()
    hardening, around = hardening or Hardening(), around or Surroundings()
    if t is not None and tolerance is not None:
        raise BadInput(
            "both --t and --tolerance",
            expected="one of them",
            fix="a given t leaves nothing to choose",
        )
    if other and second:
        raise BadInput(
            f"OTHER and --second {second}",
            expected="one of them",
            fix="a curve has one second endpoint",
        )
    rule = (
        fixed(t) if t is not None else farthest_within(tolerance) if tolerance is not None else None
    )
    samples = load_data(clean)
    parts = Parts.of(samples, holdout, seed=budget.seed)
    loss = hardening.value(samples, around=around.landscape)
    shape: dict[str, Any] = {
        "bends": bends,
        "kind": None if kind is None else KINDS[kind],
        "rho": rho,
        "adaptive": adaptive,
        "low": low,
        "high": high,
    }
    route = _route(second, shape, loss)
    attack = around.attack(hardening, samples)
    judge = asked.judge().apart_from(samples)
    judge.check_fits(samples)
    files = [tampered, *([other] if other else [])]
    nets = [load_network(model, file) for file in files]
    hashes = [file_sha256(file) for file in files]
    if len(hashes) != len(set(hashes)):
        raise BadInput(
            f"{other}, which is {tampered} again", expected="another network", fix="leave OTHER out"
        )
    settings: dict[str, Any] = {
        "bends": bends,
        "kind": kind,
        "rho": rho,
        "adaptive": adaptive,
        "second": second,
    }
    settings |= {
        "low": low,
        "high": high,
        "points": points,
        "t": t,
        "tolerance": tolerance,
        "holdout": holdout,
    }
    identity = {
        "model": model,
        "endpoints": hashes,
        "clean": samples.sha256,
        **settings,
        **vars(budget),
        **vars(asked),
    }
    identity |= vars(hardening)
    training = budget.training(CURVE_TRAINING)
    interval = route or DEFAULT_ROUTE
    ts = points if t is None else [*grid(points, interval.low, interval.high), t]
    with claimed(
        out, {**identity, "compare": compare, **(vars(around) if attack else {})}, resume=resume
    ):
        found = repair(
            nets[0],
            parts,
            nets[1] if other else _copy(second, training, out),
            route=route,
            training=training,
            selection=Selection(rule, points=ts, holdout=holdout),
            after_step=hardening.check(parts.held_out),
            folder=out,
        )
        origin = report_provenance(
            budget.seed,
            {"clean": samples, **judge.data()},
            other=found.second,
            other_file=other,
            checkpoint=tampered,
        )
        baselines = _baselines(found, nets[0]) if compare else {}
        report = evidence(
            found,
            nets[0],
            judge,
            baselines=baselines,
            landscape=attack,
            landscape_samples=around.samples,
            provenance=origin,
            folder=out / "points",
        )
        if ranks().first:
            deliver(found, report.timed(time.perf_counter() - began), out)


def deliver(found: Repair, report: Report, out: File) -> None:
    """Write the repaired network and the report into the folder, and print the table."""
    origin = metadata(report.provenance.record())
    save_checkpoint(found.model, out / "repaired.safetensors", origin)
    _, page = write_report(report, out)
    for state in out.rglob("*.state"):
        state.unlink()
    say(table(report))
    if report.landscape is not None:
        say_landscape(report.landscape)
    say(report.verdict)
    say(f"wrote {out / 'repaired.safetensors'}, {page.with_suffix('.json')} and {page}")

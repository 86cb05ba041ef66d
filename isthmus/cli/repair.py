"""`isthmus repair`: a repaired checkpoint and its report."""

from __future__ import annotations

import time
from pathlib import Path as File
from typing import Any, Literal

from torch import nn

from isthmus.cli.app import app
from isthmus.cli.options import KINDS, Asked, Budget, Clean, Hardening, ModelSpec, Surroundings
from isthmus.cli.output import load_network, metadata, say, say_landscape
from isthmus.curves.connection import DEFAULTS, HIGH, LOW, RHO, plain
from isthmus.data.sources.spec import load_data
from isthmus.data.splits import hold_out
from isthmus.defenses.curve_repair.averaged import AVERAGED, END, NEAR, averaged_repairs
from isthmus.defenses.curve_repair.endpoints import PermutedCopy, PerturbedCopy, second_endpoint
from isthmus.defenses.curve_repair.repair import Repair, repair
from isthmus.defenses.curve_repair.rules import farthest_within, fixed
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
from isthmus.types import BadInput, Defense


def _copy(second: str | None, options: Training, out: File) -> Defense | None:
    """The way to a second endpoint that was asked for by name; None leaves it to `repair`."""
    seed = options.get("seed", 0)
    match second:
        case "permuted":
            return PermutedCopy("random", seed)
        case "fine-tuned":
            return FineTune(plain(options, rho=0))
        case "perturbed":
            return PerturbedCopy(seed=seed)
        case "averaged":
            return averaged_repairs(out, **options)
    return None


def _baselines(
    found: Repair, tampered: nn.Module, options: Training, rho: float, *, mean: bool
) -> dict[str, Defense]:
    """The baselines; a `mean` of repairs is one itself and no second endpoint for them."""
    other = second_endpoint(tampered, found.fitted, **options).network if mean else found.other
    return standard(other, plain(options, rho))


@app.command(name="repair")
def repair_command(
    tampered: File,
    other: File | None = None,
    *,
    model: ModelSpec,
    clean: Clean,
    out: File,
    second: Literal["permuted", "fine-tuned", "perturbed", "averaged"] | None = None,
    bends: int = 1,
    kind: Literal["bezier", "polychain"] = "bezier",
    points: int = 21,
    rho: float = RHO,
    adaptive: bool = True,
    low: float = LOW,
    high: float = HIGH,
    t: float | None = None,
    tolerance: float | None = None,
    holdout: float = 0.2,
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
    :param second: For want of OTHER, the copy of TAMPERED that the curve leads to.
    :param bends: Interior control points of the curve.
    :param kind: The curve.
    :param rho: Train the curve at the worst weights within so much, at two gradients a step; 0 for
        the plain loss.
    :param adaptive: Measure --rho in units of each weight's size.
    :param low: Smallest t that is trained and measured.
    :param high: Largest t that is trained and measured.
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
    if second == "averaged":
        shape = (kind, bends, rho, adaptive, low, high, hardening.loss)
        if shape != ("bezier", 1, RHO, True, LOW, HIGH, "cross-entropy"):
            given = "--second averaged with --kind, --bends, --rho, --no-adaptive, --low, --high or --loss"
            raise BadInput(given, expected="a straight path, t from 0.5 to 1", fix="leave them out")
        bends, low, high = 0, NEAR, END
    rule = (
        fixed(t) if t is not None else farthest_within(tolerance) if tolerance is not None else None
    )
    samples = load_data(clean)
    loss, (_, held_out) = (
        hardening.value(samples, around=around.landscape),
        hold_out(samples, holdout, budget.seed),
    )
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
    options = budget.training(DEFAULTS)
    ts = points if t is None else [*grid(points, low, high), t]
    with claimed(
        out, {**identity, "compare": compare, **(vars(around) if attack else {})}, resume=resume
    ):
        found = repair(
            nets[0],
            samples,
            nets[1] if other else _copy(second, options, out),
            kind=KINDS[kind],
            bends=bends,
            loss=loss,
            rho=rho,
            adaptive=adaptive,
            low=low,
            high=high,
            rule=rule,
            points=ts,
            holdout=holdout,
            folder=out,
            after_step=hardening.check(held_out),
            **options,
        )
        origin = report_provenance(
            budget.seed,
            {"clean": samples, **judge.data()},
            other=found.second,
            other_file=other,
            checkpoint=tampered,
        )
        mean = second == "averaged" or found.second == AVERAGED
        baselines = _baselines(found, nets[0], options, rho, mean=mean) if compare else {}
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

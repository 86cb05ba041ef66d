"""`isthmus repair`: a repaired checkpoint and its report."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

from isthmus import attacks, curves, data, defenses, evidence, metrics, runs, training
from isthmus.cli.checks import unclaimed
from isthmus.cli.estimate import Part, pace_of, parts_of, say_estimate, together
from isthmus.cli.inputs import load_plain_network, load_samples, warn_of_foreign
from isthmus.cli.minutes import TimeLimit
from isthmus.cli.options import Clean, InputFile, ModelSpec
from isthmus.cli.options.repair import PointOptions, RepairCurve, ReportOptions, TrainingOptions
from isthmus.cli.output import announced_again, deliver
from isthmus.types import BadInput

if TYPE_CHECKING:
    from torch import nn

    from isthmus.attacks import PGD
    from isthmus.cli.estimate import Pace
    from isthmus.curves import Route
    from isthmus.data import Data, Parts
    from isthmus.defenses import Repair
    from isthmus.evidence import Judge, Report
    from isthmus.training import Training
    from isthmus.types import Defense

BASELINES = 4
"""How many of the baselines train, each with as many gradients as the curve."""

LEAST_STEPS, LEAST_POINTS = 10, 5
"""What a repair is no repair below, however short the time."""


@dataclass(frozen=True)
class _Options:
    """What the command line says of a repair, beside its files."""

    curve: RepairCurve = RepairCurve()
    point: PointOptions = PointOptions()
    trained: TrainingOptions = TrainingOptions()
    report: ReportOptions = ReportOptions()

    def check(self, other: File | None) -> None:
        """Raise BadInput if options exclude each other, before anything is read."""
        self.point.check()
        self.trained.limit.check("--steps", given=self.trained.budget.steps is not None)
        self.curve.check(other, self.trained.robust.loss)
        self.report.check()

    @property
    def by_default(self) -> bool:
        """Whether nothing says which way leads to the repaired network."""
        plain = self.trained.robust.loss == "cross-entropy"
        return plain and self.point.by_default and not self.curve.given() and not self.curve.second

    def identity(self, *, landscape: bool) -> dict[str, Any]:
        """Return what a run is recognized by."""
        return {
            **vars(self.curve),
            **vars(self.point),
            **vars(self.trained.budget),
            **vars(self.trained.limit),
            **vars(self.trained.robust),
            **self.report.identity(),
            **(vars(self.report.landscape) if landscape else {}),
        }


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What a repair reads and is told: networks, hashes of their files, clean samples in parts, how
    and where the curve is trained, the judge.
    """

    model: str
    networks: list[nn.Module]
    hashes: list[str]
    samples: Data
    parts: Parts
    budget: Training
    route: Route | None
    judge: Judge
    attack: PGD | None


def repair_command(
    tampered: InputFile,
    other: InputFile | None = None,
    *,
    model: ModelSpec,
    clean: Clean,
    out: File,
    curve: RepairCurve = RepairCurve(),
    point: PointOptions = PointOptions(),
    trained: TrainingOptions = TrainingOptions(),
    report: ReportOptions = ReportOptions(),
    resume: bool = False,
) -> None:
    """Repair a checkpoint with clean samples.

    Universal perturbations and warps that are oddly small tell to which class a trigger leads, and
    a copy unlearns what leads there (--second unlearned). Where there is a doubt, a curve is
    trained near TAMPERED to a permuted copy, and what its first step loses tells; then what both
    change is added. OTHER is tried first, by a curve to it. Where all that costs too much accuracy,
    a longer curve follows. An option that describes a curve, a rule or t asks for that curve alone.

    Writes OUT/repaired.safetensors, its card OUT/README.md, OUT/report.json and OUT/report.html.
    The curve is trained and measured where the point is sought, at t in [--low, --high]; t = 0 is
    TAMPERED. The point is chosen on clean samples held out from training (--tolerance), or is the
    given --t. --trigger and --target are used by the report only, after the choice.

    :param tampered: The checkpoint to repair: .safetensors, or a .pt file of tensors.
    :param other: A second checkpoint of the same architecture.
    :param out: A new folder for the network and the report.
    :param resume: Go on with the run that OUT holds.
    """
    began = time.perf_counter()
    unclaimed(out, resume=resume)
    options = _Options(curve, point, trained, report)
    options.check(other)
    files = [file for file in (tampered, other) if file is not None]
    inputs = _read(files, model, clean, options)
    identity = {
        "model": model.spec,
        "endpoints": inputs.hashes,
        "clean": inputs.samples.sha256,
        **options.identity(landscape=inputs.attack is not None),
    }
    plain = _Options().identity(landscape=inputs.attack is not None)
    with runs.claimed(out, identity, resume=resume, defaults=plain):
        samples = {"clean": inputs.samples, **inputs.judge.data()}
        if resume and announced_again(out, samples, inputs.judge):
            return
        inputs, options = _within(inputs, options, out)
        found = _repaired(inputs, options, out)
        written = _reported(found, inputs, options, files, out)
        if runs.ranks().first:
            deliver(found, written.timed(time.perf_counter() - began), out)


def _repaired(inputs: _Inputs, options: _Options, out: File) -> Repair:
    """Repair the first network, along a curve to the second one where there is one."""
    return defenses.repair(
        inputs.networks[0],
        inputs.parts,
        _endpoint(inputs, options, out),
        route=inputs.route,
        training=inputs.budget,
        selection=options.point.selection(inputs.route),
        after_step=options.trained.robust.check(inputs.parts.held_out),
        folder=out,
    )


def _endpoint(inputs: _Inputs, options: _Options, out: File) -> nn.Module | Defense | None:
    """Return the network at t = 1, or what makes it; None leaves it to `repair`."""
    tampered, *given = inputs.networks
    if given:
        return given[0]
    return options.curve.endpoint(tampered, inputs.parts.whole, inputs.budget, out)


def _reported(
    found: Repair, inputs: _Inputs, options: _Options, files: list[File], out: File
) -> Report:
    """Measure what the repair did, beside its baselines where they are wanted."""
    report = options.report
    origin = evidence.report_provenance(
        options.trained.budget.seed,
        {"clean": inputs.samples, **inputs.judge.data()},
        other=found.second,
        other_file=files[1] if len(files) > 1 else None,
        checkpoint=files[0],
    )
    tampered = inputs.networks[0]
    return evidence.evidence(
        found,
        tampered,
        inputs.judge,
        baselines=_baselines(found, tampered) if report.compare else {},
        landscape=inputs.attack,
        landscape_samples=report.landscape.samples,
        provenance=origin.model_copy(
            update={"network": evidence.network_kind(tampered, inputs.model)}
        ),
        inspection=defenses.inspect(tampered, inputs.samples) if report.inspect else None,
        queries=report.tried,
        folder=out / "points",
    )


def _read(files: list[File], model: ModelSpec, clean: str, options: _Options) -> _Inputs:
    """Read what a repair needs, and refuse what cannot work before any training."""
    point, trained, report = options.point, options.trained, options.report
    samples = load_samples(clean)
    warn_of_foreign(samples)
    parts = data.Parts.of(samples, point.holdout, seed=trained.budget.seed)
    loss = trained.robust.objective(samples, landscape=report.landscape.landscape)
    budget = trained.budget.training(curves.CURVE_TRAINING)
    attack = report.landscape.attack(trained.robust, samples)
    judge = replace(report.evaluation.judge(samples), attack=trained.robust.judged(samples))
    judge.check_fits(samples)
    networks = [load_plain_network(model, file) for file in files]
    hashes = [runs.file_sha256(file) for file in files]
    weights = {runs.sha256_of(*net.parameters(), *net.buffers()) for net in networks}
    if len(weights) < len(networks):  # the same file, or another one of the same weights
        raise BadInput(
            f"{files[1]}, which is {files[0]} again",
            expected="another network",
            fix="leave OTHER out",
        )
    if not budget.shard:  # the report's measurements are taken where the curve is trained
        networks = [net.to(runs.pick_device(budget.device)) for net in networks]
    route = options.curve.chosen(loss)
    return _Inputs(model.model, networks, hashes, samples, parts, budget, route, judge, attack)


def _within(inputs: _Inputs, options: _Options, home: File) -> tuple[_Inputs, _Options]:
    """Return inputs and options with what is decided by timing the network: precision, and points
    and steps where a time is given; say how long the whole repair takes.
    """
    network, limit = inputs.networks[0], options.trained.limit
    budget = training.with_decided_precision(inputs.budget, network, inputs.samples, home)
    measured = pace_of(network, inputs.samples, budget)
    step = _step(inputs, options, home)
    fixed, one_point = _beside(inputs, options)
    points, steps = options.point.points, budget.steps
    note = ""
    if limit.minutes is not None:
        points, steps = _allowed(limit, measured, step, (fixed, one_point), (points, steps), home)
        note = limit.words("steps", steps, budget.steps) + f" and {points} points"
    budget = budget.replace(steps=steps)
    options = replace(options, point=replace(options.point, points=points))
    measuring = [part.times(points) for part in one_point]
    parts = [part.times(steps) for part in step] + fixed + measuring
    say_estimate(network, inputs.samples, parts, training=budget, measured=measured, note=note)
    return replace(inputs, budget=budget), options


def _allowed(
    limit: TimeLimit,
    measured: Pace,
    step: list[Part],
    beside: tuple[list[Part], list[Part]],
    most: tuple[int, int],
    home: File,
) -> tuple[int, int]:
    """Return how many points and steps the time allows, up to `most` of each.

    Measuring takes half the time at most; training has all that measuring leaves.
    """
    file = home / runs.DECISIONS
    fixed, one_point = beside
    each_step, each_point = together("step", step), together("point", one_point)
    points = limit.amount(
        "points",
        measured,
        fixed,
        each_point,
        share=0.5,
        least=LEAST_POINTS,
        most=most[0],
        file=file,
    )
    fixed = [*fixed, each_point.times(points)]
    steps = limit.amount(
        "steps", measured, fixed, each_step, least=LEAST_STEPS, most=most[1], file=file
    )
    return points, steps


def _step(inputs: _Inputs, options: _Options, home: File) -> list[Part]:
    """Return the training, and that of the baselines, for a step of the budget.

    It is that of the curve, none where the path is straight, and of what makes the network at its
    end: where no curve is asked for the unlearning, at all its rates. The attack of a robust curve
    is no cost of the baselines, which have none.
    """
    batch = inputs.budget.batch_size
    route = inputs.route or curves.DEFAULT_ROUTE
    end = _endpoint(inputs, options, home)
    if options.by_default:
        end = defenses.unlearned_copy(inputs.networks[0], inputs.parts.whole, inputs.budget)
    spent = route.cost + defenses.gradients_of(end) / inputs.budget.steps
    attacked = training.gradients_per_step(route.objective()) - route.cost if route.bends else 0
    parts = [Part("training", trained=batch * (spent + attacked))]
    if options.report.compare:
        granted = spent or curves.DEFAULT_ROUTE.cost  # as `_baselines` grants it
        parts.append(Part("baselines", trained=batch * BASELINES * granted))
    return parts


def _beside(inputs: _Inputs, options: _Options) -> tuple[list[Part], list[Part]]:
    """Return what is measured once, and what is measured at every point of the path."""
    samples, report = inputs.samples, options.report
    fixed = []
    if options.by_default:
        searched = defenses.SEARCH_STEPS * inputs.budget.batch_size
        fixed.append(Part("universal perturbations", trained=searched))
        if len(inputs.networks) == 1:  # of two, only where the curve keeps its stand-ins
            fixed.append(Part("universal warps", trained=searched))
            both = 2 * len(defenses.PROBES) * searched  # of two networks at once
            fixed.append(Part("what a step loses", trained=both))
    if report.evaluation.trigger is not None:
        images = attacks.QueryReactivation.images
        fixed.append(Part("queries", 2 * report.tried * images))
        retuned = attacks.RETUNING.steps * attacks.RETUNING.batch_size
        fixed.append(Part("re-activation", trained=len(attacks.IMAGES) * retuned))
    questions = parts_of(inputs.judge.metrics_with_bonafide(samples))
    # both the network as received and the repaired one
    small = 2 * len(evidence.compressing.with_control(inputs.networks[0]))
    fixed.append(together("compression", questions).times(small))
    followed = 3 if options.by_default else 1  # the curve, the unlearned copy, and both moves
    choice = Part("choice of t", followed * len(samples))
    points = [choice, together("report", questions)]
    if inputs.attack is not None:
        few = inputs.judge.samples(samples)[: report.landscape.samples]
        points.append(
            together("landscape", parts_of(metrics.landscape_metrics(few, inputs.attack)))
        )
    return fixed, points


def _baselines(found: Repair, tampered: nn.Module) -> dict[str, Defense]:
    """Return the baselines; a mean of repairs is one itself and no second endpoint for them."""
    other = found.endpoint
    if other.repaired:
        other = defenses.default_endpoint(tampered, found.fitted, found.training)
    cost = found.route.cost or curves.DEFAULT_ROUTE.cost
    budget = curves.network_budget(found.training, cost=cost)
    spent = found.gradients or budget.steps  # a straight path to a given network takes none
    return defenses.standard(other.network, budget.replace(steps=spent))

"""The command line: one subcommand per public verb; files written by one are read by the next.

Every error a user can cause ends in one line on standard error and exit status 2; an interrupt ends in status 130.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path as File
from typing import Annotated, Any, Literal

import torch
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table
from torch import nn

from isthmus import __version__, comparison, plot, report
from isthmus import landscape as surroundings
from isthmus.align import align
from isthmus.attacks import PGD, AttackName, LossName, parse_attack, parse_balls, parse_loss
from isthmus.balls import Ball
from isthmus.checkpoint import load_checkpoint, save_checkpoint
from isthmus.curve import Bezier, Curve, PolyChain
from isthmus.curvefile import load_curve, save_curve
from isthmus.data import Augment, Data, hold_out
from isthmus.defenses import FineTune, rivals, standard
from isthmus.demo import tell
from isthmus.endpoints import PermutedCopy, PerturbedCopy
from isthmus.engine import Precision, joined_ranks, pick_device, ranks
from isthmus.evidence import Judge, evidence
from isthmus.factory import model_factory
from isthmus.faults import BitFlips
from isthmus.files import claimed, file_sha256, read_json, write_json, write_text
from isthmus.injection import FaultSneaking, Injection, Penalised, Reference, draw, mislabelled
from isthmus.inspection import inspect, read_references
from isthmus.inversion import BATCH, STEPS
from isthmus.losses import cross_entropy
from isthmus.metrics import Accuracy, MeanLoss, as_record, attacked, check_above_chance, from_record, logits, measure
from isthmus.overfitting import SingleStepCheck
from isthmus.path import evaluate_path, grid, network_at
from isthmus.plane import Plane, evaluate_plane
from isthmus.progress import shown
from isthmus.provenance import provenance
from isthmus.repair import (
    DEFAULTS,
    END,
    HIGH,
    LOW,
    NEAR,
    RHO,
    AlongPath,
    Repair,
    averaged_repairs,
    connect,
    plain,
    repair,
)
from isthmus.select import BONAFIDE, farthest_within, fixed
from isthmus.sources import load_data, npz_path, save_npz
from isthmus.train import Training, check_budget, fit, one_cycle
from isthmus.triggers import changed, parse_target, parse_trigger, poison
from isthmus.types import Attack, BadInput, Defense, Loss, describe, percent


def _usable(type_: Any, value: Any) -> None:
    """Refuse numbers that no option means: NaN, infinity, and integers that no random generator takes as a seed."""
    if isinstance(value, (int, float)) and not (isfinite(value) and abs(value) < 2**40):
        raise ValueError("Expected a finite number below 2^40.")


app = App(
    name="isthmus",
    version=__version__,
    help="Repair, evaluate and harden networks along low-loss paths.",
    default_parameter=Parameter(validator=_usable),
    suppress_keyboard_interrupt=False,  # `main` says how to go on
)

ModelSpec = Annotated[str, Parameter(name="--model", help="PKG.MODULE:FACTORY, a callable that builds the network.")]
Clean = Annotated[str, Parameter(name="--clean", help="Trusted samples: a named set, Parquet, image folder or .npz.")]
KINDS: dict[str, type[Curve]] = {"bezier": Bezier, "polychain": PolyChain}


@Parameter(name="*")
@dataclass
class Budget:
    """How a network or a curve is trained.

    :param steps: The budget, in SGD steps; by default 200 for a curve and 800 for a network.
    :param lr: Learning rate; by default 0.5 for a curve and 0.1 for a network.
    :param batch_size: Samples per step and process.
    :param weight_decay: Weight of half the squared norm of the weights; on a curve, of the weights at t.
    :param pad: Augment with shifts of up to so many pixels.
    :param flip: Augment with mirror images.
    :param seed: Of every random draw.
    :param precision: Of forward passes in training; auto is bf16 where the hardware has it.
    :param device: cpu, cuda, cuda:1, mps or auto.
    """

    steps: int | None = None
    lr: float | None = None
    batch_size: int = 128
    weight_decay: float = 1e-4
    pad: int = 0
    flip: bool = False
    seed: Annotated[int, Parameter(validator=_usable)] = 0
    precision: Precision = "auto"
    device: str = "auto"

    def training(self, steps: int, lr: float) -> Training:
        """Return these settings as options of `fit`, with steps and a learning rate for want of them.

        Raises BadInput where they are no budget or no device of this machine, so that no work is done in vain.
        """
        steps, lr = steps if self.steps is None else self.steps, lr if self.lr is None else self.lr
        check_budget(steps, lr, self.batch_size, self.weight_decay)
        pick_device(self.device)
        return {
            "steps": steps,
            "lr": lr,
            "batch_size": self.batch_size,
            "weight_decay": self.weight_decay,
            "augment": Augment(self.pad, self.flip) if self.pad or self.flip else None,
            "seed": self.seed,
            "precision": self.precision,
            "device": self.device,
        }


@Parameter(name="*")
@dataclass
class Asked:
    """What a network is judged on.

    :param data: Evaluation samples: a named set, Parquet, image folder or .npz, as "cifar10:test#skip=500".
    :param trigger: The attacker's, as "patch", "Patch(size=3, at=(0, 0))" or "Blend(alpha=0.2)"; also sinusoid,
        lowfrequency, warp.
    :param target: The class that triggered images are sent to, or "all".
    :param errors: Images with their injected labels, as `isthmus inject --errors-out` writes them.
    """

    data: str | None = None
    trigger: str | None = None
    target: str | None = None
    errors: str | None = None

    def judge(self) -> Judge:
        """Return the judge. Raises BadInput where only one of trigger and target is given."""
        if (self.trigger is None) != (self.target is None):
            raise BadInput("a trigger or a target alone", expected="both or none", fix="pass --trigger and --target")
        return Judge(
            load_data(self.data) if self.data is not None else None,
            parse_trigger(self.trigger) if self.trigger is not None else None,
            parse_target(self.target) if self.target is not None else None,
            load_data(self.errors) if self.errors is not None else None,
        )


@dataclass
class Threat:
    """What an attacker of inputs may do.

    :param norm: linf, l2 or l1; several, as "linf,l2,l1", for the worst of them. By default linf.
    :param eps: The radius in units of images in [0, 1], as 8/255, one for each norm; by default 8/255, 0.5 and 12.
    :param attack_steps: How many gradients the attack takes, or queries; by default what its paper takes.
    """

    norm: str | None = None
    eps: str | None = None
    attack_steps: int | None = None

    def balls(self, samples: Data) -> tuple[Ball, ...]:
        """Return the balls for such samples. Raises BadInput where norm or radius have no sense for them."""
        return parse_balls(self.norm, self.eps, samples.x.shape[1:])

    def refuse_alone(self, fix: str, *, around: bool = False) -> None:
        """Raise BadInput where an option describes an attack that nothing runs; a landscape around the path may."""
        for name in ("restarts", "beta") if around else ("norm", "eps", "attack_steps", "restarts", "beta"):
            if getattr(self, name, None) is not None:
                option = f"--{name.replace('_', '-')}"
                raise BadInput(f"{option} without an attack", expected="both or none", fix=fix)


@Parameter(name="*")
@dataclass
class Evasion(Threat):
    """The attack that a network is judged under.

    :param attack: Measure the accuracy under this attack.
    :param restarts: How often it starts anew; by default once.
    """

    attack: AttackName | None = None
    restarts: int | None = None

    def named(self, name: AttackName, samples: Data, seed: int = 0) -> Attack:
        """Return the attack of that name for such samples. Raises BadInput where an option has no sense for it."""
        return parse_attack(name, self.balls(samples), steps=self.attack_steps, restarts=self.restarts, seed=seed)

    def value(self, samples: Data, *, around: bool = False) -> Attack | None:
        """Return the attack that was asked for, if any. Raises BadInput as `named` and `refuse_alone` do."""
        if self.attack is None:
            self.refuse_alone("name it: --attack pgd", around=around)
            return None
        return self.named(self.attack, samples)


@Parameter(name="*")
@dataclass
class Hardening(Threat):
    """What is minimised in training.

    :param loss: cross-entropy, or against an attack: adversarial (PGD; MSD for several norms), trades, or fast: a
        single step (N-FGSM), and a check on samples kept back that stops training which has collapsed.
    :param beta: The weight of robustness in trades; by default 6.
    """

    loss: LossName = "cross-entropy"
    beta: float | None = None

    def value(self, samples: Data, *, around: bool = False) -> Loss:
        """Return the loss on such samples. Raises BadInput where an option has no sense."""
        if self.loss == "cross-entropy":
            self.refuse_alone("name a loss: --loss adversarial", around=around)
            return cross_entropy
        return parse_loss(self.loss, self.balls(samples), steps=self.attack_steps, beta=self.beta)

    def parts(self, samples: Data, seed: int) -> tuple[Data, Data]:
        """Return what trains and what the check of fast training asks: a tenth, where there are enough."""
        return hold_out(samples, 0.1, seed) if self.loss == "fast" else (samples, samples)

    def check(self, held_out: Data) -> SingleStepCheck | None:
        """Return the check that fast training needs."""
        return SingleStepCheck(held_out, self.balls(held_out)) if self.loss == "fast" else None


@Parameter(name="*")
@dataclass
class Surroundings:
    """Robustness and curvature along the path.

    :param landscape: Measure them too: loss under PGD within --eps, input-Hessian, gradient norms, and what goes with
        what.
    :param landscape_samples: On the first so many samples; by default 500.
    """

    landscape: bool = False
    landscape_samples: int | None = None

    def attack(self, threat: Threat, samples: Data) -> PGD | None:
        """Return PGD in the ball of the threat; None where no landscape was asked for.

        Raises BadInput for options without a landscape, and for several norms.
        """
        if not self.landscape:
            if self.landscape_samples is not None:
                raise BadInput("--landscape-samples", expected="--landscape", fix="pass --landscape, or neither")
            return None
        _ = self.samples  # refuses
        balls = threat.balls(samples)
        if len(balls) > 1:
            raise BadInput(f"--norm {threat.norm} for a landscape", expected="one norm", fix="measure one at a time")
        return PGD(balls[0], steps=10 if threat.attack_steps is None else threat.attack_steps, returns="worst")

    @property
    def samples(self) -> int:
        """How many samples are asked. Raises BadInput where there are none."""
        found = 500 if self.landscape_samples is None else self.landscape_samples
        if found < 1:
            raise BadInput(f"--landscape-samples {found}", expected="1 or more", fix="leave it out for 500")
        return found


def _say(text: Any) -> None:
    if ranks().first:
        Console().print(text)


def _table(first: str, rows: list[tuple[str, dict[str, float]]]) -> Table:
    """One row per network, one column per metric: the value, its 95 % interval, the counts."""
    table = Table(first, *rows[0][1], caption="95 % intervals", caption_justify="left")
    for head, values in rows:
        cells = [report.shown(as_record(value), name) for name, value in values.items()]
        table.add_row(head, *(f"{cell.main} ({cell.details})" for cell in cells))
    return table


def _metadata(origin: dict[str, Any]) -> dict[str, str]:
    return {"provenance": json.dumps(origin)}


def _new(out: File) -> File:
    """Refuse a file that exists, before any work."""
    if out.exists() or not out.name:
        got = f"{out}, which exists" if out.name else "an empty name"
        raise BadInput(got, expected="a new file", fix="choose another --out; nothing is overwritten")
    return out


def _state_file(out: File, resume: bool) -> File:
    """Where the training of `out` keeps its state; refuses a finished or an unclaimed one, so nothing is lost."""
    state = _new(out).with_name(f".{out.name}.state")
    if state.exists() and not resume:
        raise BadInput(f"an unfinished run of {out}", expected="a new file", fix="pass --resume to go on with it")
    return state


def _network(model: str, checkpoint: File) -> nn.Module:
    return load_checkpoint(checkpoint, model_factory(model)())


@app.command
def train(
    *,
    model: ModelSpec,
    data: str,
    out: File,
    hardening: Hardening | None = None,
    budget: Budget | None = None,
    resume: bool = False,
) -> None:
    """Train a network from scratch and write it to OUT (.safetensors)."""
    budget, hardening, samples = budget or Budget(), hardening or Hardening(), load_data(data)
    loss, (fitted, held_out) = hardening.value(samples), hardening.parts(samples, budget.seed)
    torch.manual_seed(budget.seed)
    net = model_factory(model)()
    logits(net, samples[:1])  # refuses images and classes that the network does not fit
    state = _state_file(out, resume)
    training = budget.training(steps=800, lr=0.1)
    training.update({"schedule": one_cycle, "nesterov": True, "checkpoint": state})
    history = fit(net, fitted, loss, after_step=hardening.check(held_out), **training)
    if ranks().first:
        save_checkpoint(net, out, _metadata(provenance(budget.seed, {"train": samples})))
        state.unlink(missing_ok=True)
    _say(f"wrote {out}: {history.steps} steps in {history.seconds:.0f} s, last loss {history.losses[-1]:.3f}")


@app.command(name="poison")
def poison_command(
    data: str,
    *,
    out: File,
    trigger: str = "patch",
    target: str = "1",
    rate: float = 0.1,
    clean_label: bool = False,
    cover: float = 0.0,
    cover_trigger: str | None = None,
    seed: int = 0,
) -> None:
    """Write DATA to OUT (.npz) with a share RATE of each non-target class triggered and relabelled.

    :param clean_label: Poison a share of the target class instead, and leave its labels.
    :param cover: Share of the samples that carry --cover-trigger and keep their label.
    :param cover_trigger: As --trigger; goes with --cover.
    """
    samples, out = load_data(data), _new(out)
    poisoned = poison(
        samples,
        parse_trigger(trigger),
        rate=rate,
        target=parse_target(target),
        generator=torch.Generator().manual_seed(seed),
        clean_label=clean_label,
        cover=cover,
        cover_trigger=parse_trigger(cover_trigger) if cover_trigger else None,
    )
    save_npz(poisoned, out)
    _say(f"wrote {out}: {int(changed(samples, poisoned).sum())} of {len(samples)} samples changed")


METHODS: dict[str, Callable[..., Injection]] = {
    "ours": Penalised,
    "reference": Reference,
    "admm-l0": partial(FaultSneaking, "l0"),
    "admm-l2": partial(FaultSneaking, "l2"),
}


@app.command(name="inject")
def inject_command(
    checkpoint: File,
    *,
    model: ModelSpec,
    data: str,
    out: File,
    how: Literal["ours", "reference", "admm-l0", "admm-l2"] = "ours",
    errors: int = 50,
    kept: int = 950,
    layer: list[str] | None = None,
    lr: float | None = None,
    errors_out: File | None = None,
    seed: int = 0,
) -> None:
    """Change the weights of CHECKPOINT so that some images of DATA take wrong labels, and write OUT (.safetensors).

    DATA is the attacker's: none of its images may be bonafide or evaluation samples of a repair.

    :param how: Smallest change by a penalty on its norm (ours), the descent of the paper's code (reference), or the
        fewest changed weights or smallest norm by ADMM.
    :param errors: How many images get a wrong label, drawn from the other classes.
    :param kept: How many images are watched to keep their label.
    :param layer: Layers or parameters that are changed, by name; by default the last linear layer.
    :param lr: Step of the method, for its own default.
    :param errors_out: Write the images with their injected labels there (.npz), for --errors of other commands.
    """
    out, errors_out = _new(out), _new(npz_path(errors_out)) if errors_out else None
    samples, network = load_data(data), _network(model, checkpoint)
    generator = torch.Generator().manual_seed(seed)
    chosen, others = draw([network], samples, (errors, kept), generator)
    wrong = mislabelled(chosen, generator)
    method = METHODS[how](layers=tuple(layer or ()), **({} if lr is None else {"lr": lr}))
    found = method(network, wrong, others)
    if errors_out:
        save_npz(wrong, errors_out)
    origin = {**provenance(seed, {"pool": samples, "errors": wrong}), "injection": found.record(), "how": how}
    save_checkpoint(found.network, out, _metadata(origin))
    _say(
        f"wrote {out}: {found.hits.hits} of {found.hits.n} errors, {found.kept.hits} of {found.kept.n} others kept; "
        f"{found.changed} of {found.size} weights changed in {', '.join(found.tensors)}, by {found.norm:.3g} "
        f"({percent(found.relative)} of their norm)"
    )


@app.command(name="flip")
def flip_command(
    checkpoint: File,
    *,
    model: ModelSpec,
    out: File,
    flips: int | None = None,
    rate: float | None = None,
    dtype: Literal["float32", "bf16", "int8"] = "float32",
    layer: list[str] | None = None,
    clamp: bool = False,
    seed: int = 0,
) -> None:
    """Flip random bits of the weights of CHECKPOINT, as memory faults do, and write OUT (.safetensors).

    :param flips: How many bits flip.
    :param rate: Instead, the share of all bits that flip.
    :param dtype: How the weights are stored while it happens; int8 is symmetric, with one scale a tensor.
    :param layer: Layers or parameters that suffer, by name; by default all parameters.
    :param clamp: Bring weights that leave their tensor's range back into it; otherwise NaN and infinity are refused.
    """
    faults, out = BitFlips(flips, rate, dtype, tuple(layer or ()), clamp, seed), _new(out)
    found = faults(_network(model, checkpoint))
    save_checkpoint(found.network, out, _metadata({**provenance(seed, {}), "faults": found.record()}))
    _say(
        f"wrote {out}: {found.flips} of {found.bits} bits flipped, {found.changed} of {found.size} weights changed, "
        f"{found.clamped} clamped; the largest is {found.largest:.3g}"
    )


@app.command(name="connect")
def connect_command(
    start: File,
    end: File,
    *,
    model: ModelSpec,
    clean: Clean,
    out: File,
    bends: int = 1,
    kind: Literal["bezier", "polychain"] = "bezier",
    rho: float = 0.0,
    adaptive: bool = True,
    low: float = 0.0,
    high: float = 1.0,
    hardening: Hardening | None = None,
    budget: Budget | None = None,
    resume: bool = False,
) -> None:
    """Train a curve of low loss from START to END on clean samples and write its bends to OUT (.safetensors)."""
    budget, hardening, samples = budget or Budget(), hardening or Hardening(), load_data(clean)
    loss, (fitted, held_out) = hardening.value(samples), hardening.parts(samples, budget.seed)
    state, ends = _state_file(out, resume), (_network(model, start), _network(model, end))
    for each in ends:
        check_above_chance(each, samples)
    training: Training = {**budget.training(DEFAULTS["steps"], DEFAULTS["lr"]), "checkpoint": state}
    curve, history = connect(
        ends[0], ends[1], fitted, kind=KINDS[kind], bends=bends, loss=loss, rho=rho, adaptive=adaptive, low=low,
        high=high, after_step=hardening.check(held_out), **training,
    )  # fmt: skip
    if ranks().first:
        save_curve(curve, out, start=start, end=end, metadata=_metadata(provenance(budget.seed, {"clean": samples})))
        state.unlink(missing_ok=True)
    _say(
        f"wrote {out}: {kind}, {bends} bends, {history.steps if history else 0} steps, length {curve.arc_length():.2f}"
    )


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
    """Measure the networks along CURVE, BatchNorm recalibrated on the clean samples, and write OUT (.json).

    Without --data the clean samples themselves are asked about. Points are kept beside OUT as they are computed.
    """
    around, evasion, samples = around or Surroundings(), evasion or Evasion(), load_data(clean)
    attack = around.attack(evasion, samples)
    judge, loaded = (asked or Asked()).judge().apart_from(samples), load_curve(curve, model_factory(model))
    judge = replace(judge, attack=evasion.value(samples, around=around.landscape))
    folder = _new(out).with_name(f".{out.name}.points")
    found = evaluate_path(loaded, judge.metrics(samples), points, recalibrate_on=samples, folder=folder)
    record = found.record()
    if attack is not None:
        questions = surroundings.landscape_metrics((judge.evaluation or samples)[: around.samples], attack)
        measured = evaluate_path(loaded, questions, points, recalibrate_on=samples, ends="recalibrated", folder=folder)
        record["landscape"] = surroundings.record(measured, describe(attack))
    if ranks().first:
        write_json(out, {**record, "provenance": provenance(0, {"clean": samples})})
    _say(_table("t", [(f"{t:g}", found.at(t)) for t in found.t]))
    if attack is not None:
        _say_landscape(record["landscape"])


def _say_landscape(part: dict[str, Any]) -> None:
    for table in report.landscape_tables(part):
        _say(table)
    for caveat in part["caveats"]:
        _say(f"- {caveat}")


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
    """Measure the plane through three networks and write OUT (.json), and each metric as a contour plot (.svg).

    Without --data the clean samples themselves are asked about. The plane of a curve with one bend is that through its
    ends and the network that `isthmus export` gives at t = 0.5.

    :param points: Points along each side of the grid.
    :param margin: How far the grid reaches beyond the networks, as a share of their extent.
    """
    around, evasion, samples, out = around or Surroundings(), evasion or Evasion(), load_data(clean), _new(out)
    attack, judge = around.attack(evasion, samples), (asked or Asked()).judge().apart_from(samples)
    judge = replace(judge, attack=evasion.value(samples, around=around.landscape))
    plane = Plane(*(_network(model, file) for file in (first, second, third)))
    metrics = judge.metrics(samples)
    if attack is not None:
        asked_of: Data = (judge.evaluation or samples)[: around.samples]
        metrics |= surroundings.landscape_metrics(asked_of, attack)
    elif judge.evaluation is None:
        metrics["bonafide loss"] = MeanLoss(samples)
    found = evaluate_plane(plane, metrics, points, recalibrate_on=samples, margin=margin).record()
    if not ranks().first:
        return
    write_json(out, {**found, "provenance": provenance(0, {"clean": samples})})
    names = [file.stem for file in (first, second, third)]
    for name in metrics:
        figure = plot.contours(found, name, corners=names)
        drawn = out.with_name(f"{out.stem}-{name.replace(',', '').replace(' ', '-')}.svg")
        write_text(drawn, plot.to_svg(figure, drawn.stem).replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))
    _say(f"wrote {out} and {len(metrics)} contour plots beside it")


@app.command
def export(curve: File, *, t: float, model: ModelSpec, clean: Clean, out: File) -> None:
    """Write the network at T on CURVE to OUT (.safetensors), BatchNorm recalibrated on the clean samples."""
    samples, out = load_data(clean), _new(out)
    net = network_at(load_curve(curve, model_factory(model)), t, samples)
    save_checkpoint(net, out, _metadata({**provenance(0, {"clean": samples}), "curve": str(curve), "t": t}))
    _say(f"wrote {out}")


@app.command
def evaluate(
    checkpoint: File,
    *,
    model: ModelSpec,
    asked: Asked | None = None,
    evasion: Evasion | None = None,
    out: File | None = None,
) -> None:
    """Print CHECKPOINT's accuracy and loss on --data, and what trigger, injected errors and attack do to it."""
    judge = (asked or Asked()).judge()
    evaluation = judge.evaluation
    if evaluation is None:
        raise BadInput("no evaluation data", expected="--data", fix="name a set, a file or a folder")
    judge = replace(judge, attack=(evasion or Evasion()).value(evaluation))
    metrics = judge.metrics(evaluation)
    del metrics[BONAFIDE]
    out = _new(out) if out else None
    found = measure(_network(model, checkpoint), metrics)
    if out:
        values = {name: as_record(value) for name, value in found.items()}
        write_json(out, {**values, "provenance": provenance(0, judge.data())})
    _say(_table("network", [(checkpoint.name, found)]))


@app.command(name="attack")
def attack_command(
    checkpoint: File,
    *,
    model: ModelSpec,
    data: str,
    evasion: Evasion | None = None,
    seed: int = 0,
    device: str = "auto",
    out: File | None = None,
) -> None:
    """Attack CHECKPOINT on DATA, and print its accuracy before and after; without --attack by PGD.

    Robust accuracy holds against the attack that was run, and no other: autoattack is the strongest here.

    :param data: Samples: a named set, Parquet, image folder or .npz.
    :param device: cpu, cuda, cuda:1, mps or auto.
    :param out: Write the attacked images with their labels (.npz).
    """
    samples, evasion, out = load_data(data), evasion or Evasion(), npz_path(out) if out else None
    name = evasion.attack or "pgd"
    attack = evasion.named(name, samples, seed)
    network = _network(model, checkpoint).to(pick_device(device))
    clean, moved = check_above_chance(network, samples), attacked(network, samples, attack)
    if out:
        save_npz(moved, out)
    where = " and ".join(f"{type(ball).__name__} {ball.eps:.4g}" for ball in evasion.balls(samples))
    _say(_table("network", [(checkpoint.name, {"accuracy": clean, "robust accuracy": Accuracy(moved)(network)})]))
    _say(f"{name} within {where}" + (f"; wrote {out}" if out else ""))


def _copy(second: str | None, options: Training, out: File) -> Defense | None:
    """The way to a second endpoint that was asked for by name; None leaves it to `repair`."""
    seed = options.get("seed", 0)
    made: dict[str | None, Defense] = {
        "permuted": PermutedCopy("random", seed),
        "fine-tuned": FineTune(plain(options, rho=0)),
        "perturbed": PerturbedCopy(seed=seed),
        "averaged": averaged_repairs(out, **options),
    }
    return made.get(second)


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
    """Repair TAMPERED from clean samples along a curve to OTHER (default: a permuted copy of itself).

    Without OTHER, with fewer than 1,000 samples and no option that describes a curve, a rule or t, the path leads
    straight to the mean of two repaired copies (--second averaged).
    Writes OUT/repaired.safetensors, OUT/report.json and OUT/report.html. The curve is trained and measured where the
    point is sought, at t in [--low, --high]; t = 0 is TAMPERED. The point is chosen on clean samples held out
    from training (--tolerance), or is the given --t. --trigger and --target serve the report alone, after the choice.

    :param tampered: The checkpoint to repair: .safetensors, or a .pt file of tensors.
    :param other: A second checkpoint of the same architecture.
    :param out: A new folder for the network and the report.
    :param second: For want of OTHER, the copy of TAMPERED that the curve leads to.
    :param bends: Interior control points of the curve.
    :param kind: The curve.
    :param rho: Train the curve at the worst weights within so much, at two gradients a step; 0 for the plain loss.
    :param adaptive: Measure --rho in units of each weight's size.
    :param low: Smallest t that is trained and measured.
    :param high: Largest t that is trained and measured.
    :param points: How many t are measured between low and high.
    :param t: Take this point, without a choice.
    :param tolerance: Take the point farthest from both ends whose accuracy is within so much of the best.
    :param holdout: Share of the clean samples that choose t and train nothing.
    :param compare: Run the baselines too, on the same samples with the same budget.
    :param resume: Go on with the run that OUT holds.
    """
    began, budget, asked = time.perf_counter(), budget or Budget(), asked or Asked()
    hardening, around = hardening or Hardening(), around or Surroundings()
    if t is not None and tolerance is not None:
        raise BadInput("both --t and --tolerance", expected="one of them", fix="a given t leaves nothing to choose")
    if other and second:
        raise BadInput(f"OTHER and --second {second}", expected="one of them", fix="a curve has one second endpoint")
    if second == "averaged":
        if (bends, low, high) != (1, LOW, HIGH):
            given = "--second averaged with --bends, --low or --high"
            raise BadInput(given, expected="a straight path, t from 0.5 to 1", fix="leave them out")
        bends, low, high = 0, NEAR, END
    rule = fixed(t) if t is not None else farthest_within(tolerance) if tolerance is not None else None
    samples = load_data(clean)
    loss, (_, held_out) = hardening.value(samples, around=around.landscape), hold_out(samples, holdout, budget.seed)
    attack = around.attack(hardening, samples)
    judge = asked.judge().apart_from(samples)
    judge.metrics(samples)  # refuses a trigger or target that does not fit, before any work
    files = [tampered, *([other] if other else [])]
    nets = [_network(model, file) for file in files]
    hashes = [file_sha256(file) for file in files]
    settings: dict[str, Any] = {"bends": bends, "kind": kind, "rho": rho, "adaptive": adaptive, "second": second}
    settings |= {"low": low, "high": high, "points": points, "t": t, "tolerance": tolerance, "holdout": holdout}
    identity = {"model": model, "endpoints": hashes, "clean": samples.sha256, **settings, **vars(budget), **vars(asked)}
    identity |= vars(hardening)
    options = budget.training(DEFAULTS["steps"], DEFAULTS["lr"])
    ts = points if t is None else [*grid(points, low, high), t]
    with claimed(out, {**identity, "compare": compare, **(vars(around) if attack else {})}, resume=resume):
        found = repair(
            nets[0], samples, nets[1] if other else _copy(second, options, out), kind=KINDS[kind], bends=bends,
            loss=loss, rho=rho, adaptive=adaptive, low=low, high=high, rule=rule, points=ts, holdout=holdout,
            folder=out, after_step=hardening.check(held_out), **options,
        )  # fmt: skip
        origin = provenance(budget.seed, {"clean": samples, **judge.data()})
        origin["checkpoint"] = {"path": str(tampered), "sha256": hashes[0]}
        origin["other"] = {"kind": found.second, **({"path": str(other), "sha256": hashes[-1]} if other else {})}
        baselines = standard(found.other, plain(options, rho)) if compare else {}
        record = evidence(
            found, nets[0], judge, baselines=baselines, landscape=attack, landscape_samples=around.samples,
            provenance=origin, folder=out / "points",
        )  # fmt: skip
        record["provenance"]["seconds"] = time.perf_counter() - began
        if ranks().first:
            deliver(found, record, out)


def deliver(found: Repair, record: dict[str, Any], out: File) -> None:
    """Write the repaired network and the report into the folder, and print the table."""
    save_checkpoint(found.model, out / "repaired.safetensors", _metadata(record["provenance"]))
    _, page = report.write_report(record, out)
    for state in out.glob("*.state"):
        state.unlink()
    _say(report.table(record))
    if "landscape" in record:
        _say_landscape(record["landscape"])
    _say(record["verdict"])
    _say(f"wrote {out / 'repaired.safetensors'}, {page.with_suffix('.json')} and {page}")


@app.command(name="compare")
def compare_command(
    tampered: File,
    *,
    model: ModelSpec,
    clean: Clean,
    out: File,
    asked: Asked | None = None,
    budget: Budget | None = None,
    resume: bool = False,
) -> None:
    """Repair TAMPERED by the path and by ten other defenses, and write OUT/compare.json.

    Same samples, same budget, no trigger: --trigger and --target measure afterwards. Without --data a fifth of the
    clean samples is kept back to measure on. Every row is kept as soon as it is computed.

    :param out: A new folder for the table.
    :param resume: Go on with the run that OUT holds.
    """
    budget, asked, samples = budget or Budget(), asked or Asked(), load_data(clean)
    judge = asked.judge().apart_from(samples)
    fitted, held_out = (samples, samples) if judge.evaluation else hold_out(samples, 0.2, budget.seed)
    metrics = judge.metrics(held_out)
    if judge.evaluation:
        del metrics[BONAFIDE]
    net, options = _network(model, tampered), budget.training(DEFAULTS["steps"], DEFAULTS["lr"])
    check_above_chance(net, samples)
    spent = plain(options)
    defenses = {"path": AlongPath({**options, "steps": spent["steps"]}), **rivals(spent)}
    identity = {"model": model, "checkpoint": file_sha256(tampered), "clean": samples.sha256}
    with claimed(out, {**identity, **vars(budget), **vars(asked)}, resume=resume):
        before = measure(net, metrics)
        rows = comparison.compare(defenses, net, fitted, metrics, folder=out / "rows")
        origin = provenance(budget.seed, {"clean": fitted, **judge.data()})
        if ranks().first:
            kept = {name: as_record(value) for name, value in before.items()}
            write_json(out / "compare.json", {"provenance": origin, "as received": kept, "rows": rows})
    found = [(row["name"], {n: from_record(row[n]) for n in metrics}) for row in rows if "refused" not in row]
    _say(_table("network", [("as received", before), *found]))
    for row in rows:
        if "refused" in row:
            _say(f"{row['name']} was not run: {row['refused']}")


@app.command(name="inspect")
def inspect_command(
    checkpoint: File,
    *,
    model: ModelSpec,
    clean: Clean,
    references: File | None = None,
    steps: int = STEPS,
    batch_size: int = BATCH,
    seed: int = 0,
    out: File | None = None,
) -> None:
    """Say whether CHECKPOINT obeys an oddly small trigger, which class it leads to, and at what false-alarm rate.

    The rate is among clean networks searched alike (docs/inspection.md); without such references nothing is claimed.

    :param references: What clean networks gave, of experiments/inspection.py; by default what comes with isthmus.
    :param steps: The budget of each search; the references that come with isthmus are of 120 steps of 16.
    :param batch_size: Samples per step.
    """
    samples, network, out = load_data(clean), _network(model, checkpoint), _new(out) if out else None
    check_above_chance(network, samples)
    known = read_references(references)[0] if references else None
    found = inspect(network, samples, clean=known, steps=steps, batch_size=batch_size, seed=seed)
    if out:
        triggers = [
            {"kind": e.kind, "target": e.target, "size": e.size, "score": e.score, "success": as_record(e.success)}
            for e in found.found
        ]
        record = {"decision": found.decision, "reason": found.reason, "p": found.p, "suspect": found.suspect}
        write_json(out, {**record, "triggers": triggers, "provenance": provenance(seed, {"clean": samples})})
    table = Table("Trigger", "Leads to", "Size", "Success", caption="the smallest trigger found of each kind and class")
    for each in found.found:
        table.add_row(each.kind, str(each.target), f"{each.size:.3g}", report.shown(as_record(each.success), "").main)
    _say(table)
    _say(f"{found.decision}: {found.reason}")


@app.command(name="align")
def align_command(
    reference: File,
    network: File,
    *,
    model: ModelSpec,
    clean: Clean,
    out: File,
    by: Literal["activations", "weights"] = "activations",
    seed: int = 0,
) -> None:
    """Permute the channels of NETWORK to match REFERENCE, computing the same, and write OUT (.safetensors).

    What cannot be permuted is listed with the reason.
    """
    samples, out = load_data(clean), _new(out)
    first, second = (_network(model, file) for file in (reference, network))
    found = align(first, second, samples, by=by, seed=seed)
    origin = provenance(seed, {"clean": samples})
    save_checkpoint(found.model, out, _metadata({**origin, "aligned to": str(reference), "by": by}))
    barriers = [
        evaluate_path(Bezier(first, each, bends=0), {"loss": MeanLoss(samples)}, 11, recalibrate_on=samples)
        for each in (second, found.model)
    ]
    was, now = (each.barrier("loss") for each in barriers)
    for name, reason in found.fixed.items():
        _say(f"{name} stays: {reason}")
    _say(
        f"wrote {out}: {found.moved:.0%} of the channels moved; loss barrier of the straight line {was:.3f} before, "
        f"{now:.3f} after"
    )


@app.command
def demo(*, out: File = File("demo"), seed: int = 0, resume: bool = False) -> None:
    """Tell the whole story on the digits that come with scikit-learn: backdoor two networks, repair them, compare."""
    began = time.perf_counter()
    with claimed(out, {"command": "demo", "seed": seed}, resume=resume):
        story = tell(seed, out)
        origin = provenance(seed, {"clean": story.bonafide, "evaluation": story.evaluation})
        origin["other"] = {"kind": "given"}
        record = evidence(
            story.found, story.tampered, story.judge, baselines=story.rivals, provenance=origin, folder=out / "points"
        )
        record["title"] = "Demo: two backdoored digit classifiers and the path between them"
        record["provenance"]["seconds"] = time.perf_counter() - began
        deliver(story.found, record, out)


@app.command(name="report")
def report_command(record: File, *, out: File) -> None:
    """Render the page of a report.json again, into the folder OUT."""
    written = report.write_report(read_json(record), out)
    _say(f"wrote {written[1]}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the process: status 0, 2 for input that cannot be used, 130 when interrupted."""
    try:
        with joined_ranks(), shown():
            app(arguments, result_action="return_value", exit_on_error=False, print_error=False)
    except BadInput as error:
        print(f"isthmus: {error}", file=sys.stderr)
        sys.exit(2)
    except CycloptsError as error:
        print(f"isthmus: {' '.join(str(error).split())} See isthmus --help.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one, on the way out, changes nothing
        print("isthmus: interrupted; the same command with --resume goes on from the last save", file=sys.stderr)
        sys.exit(130)

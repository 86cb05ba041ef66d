"""Table: does projected gradient ascent solve the inner problem of adversarial training, and does a
smaller input scale make it easier?

    isthmus sweep experiments/adversary_dynamics.toml --set data=DIR    a file per job
    isthmus sweep experiments/adversary_dynamics.toml --gather          the page in docs/results

The network of Deng, He, Huang and Su, ICML 2020: two layers, quadratic loss, l2 balls of radius rho
times the input's norm. "inner": local maxima at random weights. "outer": the initial phase of
adversarial training on MNIST, from a network whose outputs are 0 at every input scale (each hidden
unit has a twin of opposite sign), so that all scales start at the same loss, and with a rate tuned
for each scale on a seed of its own. A pilot in which initial outputs grew with the scale was
confounded and is not used.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isthmus import load_data
from isthmus.evidence import provenance
from isthmus.metrics import Rate

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
    "relu": torch.relu,
}
NETS, STARTS, TOLERANCE = 8, 16, 1e-6
SHARES = (0.5, 0.9, 0.99, 0.9999)
BATCH, PHASE, CHECKS = 100, 80, (5, 10, 20, 40, 80)
RATES = tuple(0.01 * 10 ** (k / 3) for k in range(-5, 7))
"""Rates that are tried, over the squared input scale."""
TESTED, STARTED = 200, 2
DIVERGED = 1e9
"""The robust loss that is written down where training has diverged."""


def name_of(what: str, **axes: Any) -> str:
    """Return a job's name: that of its file."""
    return "-".join([what, *(f"{value}".replace(".", "p") for value in axes.values())])


def run(what: str, data: str = "", **axes: Any) -> dict[str, Any]:
    """Do one job."""
    record = inner(**axes) if what == "inner" else outer(data=data, **axes)
    return {"what": what, **axes, **record, "provenance": provenance(0, {}).record()}


# ── the inner problem ─────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Problem:
    """Maximize half the squared error of one network at one input over a ball; in float64."""

    hidden: Tensor
    out: Tensor
    x: Tensor
    y: Tensor
    eps: float
    activation: Callable[[Tensor], Tensor]

    def values(self, delta: Tensor) -> Tensor:
        """The loss at perturbations (n, d), (n,)."""
        outputs = self.activation((self.x + delta) @ self.hidden.T) @ self.out
        return 0.5 * (outputs - self.y).square()

    def gradient(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """The losses and their gradients."""
        delta = delta.detach().requires_grad_()
        values = self.values(delta)
        return values.detach(), torch.autograd.grad(values.sum(), delta)[0]

    def project(self, delta: Tensor) -> Tensor:
        """The nearest points of the ball."""
        norm = delta.norm(dim=1, keepdim=True)
        return delta * (self.eps / norm.clamp_min(1e-300)).clamp(max=1.0)


def problem(activation: str, width: int, d: int, scale: float, rho: float, seed: int) -> Problem:
    """A network at initialization, w ~ N(0, 1 / d), a = +-1 / sqrt(width), and an input of norm
    scale times sqrt(d).
    """
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    hidden = torch.randn(width, d, **draw) / math.sqrt(d)
    out = torch.randint(0, 2, (width,), generator=generator).double() * 2 - 1
    x = torch.randn(d, **draw)
    x = x / x.norm() * scale * math.sqrt(d)
    y = torch.randn((), **draw).sign()
    norm = float(x.norm())
    return Problem(hidden, out / math.sqrt(width), x, y, rho * norm, ACTIVATIONS[activation])


def ascend(case: Problem, starts: Tensor, most: int) -> dict[str, Tensor]:
    """Climb from each start until it moves by less than the tolerance, with a step of half a radius
    over the norm of the gradient at 0.
    """
    _, slope = case.gradient(torch.zeros_like(starts[:1]))
    step = 0.5 * case.eps / float(slope.norm())
    delta = case.project(starts)
    settled = torch.full((len(starts),), math.inf, dtype=torch.float64)
    history = []
    for k in range(1, most + 1):
        values, gradient = case.gradient(delta)
        history.append(values)
        ahead = case.project(delta + step * gradient)
        moved = (ahead - delta).norm(dim=1)
        settled[(moved <= TOLERANCE * case.eps) & settled.isinf()] = k
        delta = ahead
        if bool(settled.isfinite().all()):
            break
    values, gradient = case.gradient(delta)
    history.append(values)
    cosine = torch.nn.functional.cosine_similarity(delta, gradient, dim=1)
    return {
        "delta": delta,
        "values": torch.stack(history),
        "settled": settled,
        "align": cosine,
        "boundary": delta.norm(dim=1) / case.eps,
    }


def inner(
    activation: str, width: int, d: int, scale: float, rho: float, most: int = 1000
) -> dict[str, Any]:
    """The diagnostics of several networks, each from several starts."""
    rows = []
    for seed in range(NETS):
        case = problem(activation, width, d, scale, rho, seed)
        generator = torch.Generator().manual_seed(1000 + seed)
        starts = torch.randn(STARTS, d, generator=generator, dtype=torch.float64)
        radius = torch.rand(STARTS, 1, generator=generator, dtype=torch.float64) ** (1 / d)
        starts = starts / starts.norm(dim=1, keepdim=True) * radius * case.eps
        found = ascend(case, starts, most)
        rows.append(diagnosed(found))
    return {"nets": rows}


def diagnosed(found: dict[str, Tensor]) -> dict[str, Any]:
    """What the climbs of one network say."""
    ends = found["values"][-1]
    best, worst = float(ends.max()), float(ends.min())
    ways = torch.nn.functional.normalize(found["delta"], dim=1)
    same = (ways @ ways.T > 0.999).tril(-1).any(1)
    first = found["values"][0]
    gains = (found["values"] - first) / (best - first).clamp_min(1e-300)
    reach = {
        f"{share:g}": median_of((gains >= share).double().argmax(0)[(gains >= share).any(0)])
        for share in SHARES
    }
    return {
        "iterations": median_of(found["settled"]),
        "unsettled": float(found["settled"].isinf().double().mean()),
        "align": float(found["align"].mean()),
        "boundary": float(found["boundary"].mean()),
        "spread": (best - worst) / best,
        "maxima": int((~same).sum()),
        "steps to share of the gain": reach,
    }


def median_of(values: Tensor) -> float | None:
    """The lower median; None where it is infinite or nothing is there."""
    if not len(values):
        return None
    middle = float(values.double().sort().values[(len(values) - 1) // 2])
    return middle if math.isfinite(middle) else None


# ── the outer problem ─────────────────────────────────────────────────────────────────────────────
@dataclass
class Student:
    """Two layers whose outputs are 0 at the start: hidden units in pairs of opposite sign."""

    hidden: Tensor
    out: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The ten outputs."""
        return torch.tanh(x @ self.hidden.T) @ self.out.T

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Half the squared distance to one-hot labels, (n,)."""
        target = torch.nn.functional.one_hot(y, 10).to(x)
        return 0.5 * (self(x) - target).square().sum(1)


def student(d: int, pairs: int, seed: int) -> Student:
    """A student with `pairs` pairs of hidden units."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(pairs, d, generator=generator)
    out = torch.randn(10, pairs, generator=generator) / math.sqrt(2 * pairs)
    return Student(
        torch.cat([half, half]).requires_grad_(), torch.cat([out, -out], 1).requires_grad_()
    )


def attacked(net: Student, x: Tensor, y: Tensor, eps: float, steps: int, seed: int) -> Tensor:
    """PGA from a random start on the sphere of half the radius."""
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(x.shape, generator=generator)
    delta = 0.5 * eps * delta / delta.norm(dim=1, keepdim=True)
    for _ in range(steps):
        at = delta.detach().requires_grad_()
        (slope,) = torch.autograd.grad(net.loss(x + at, y).sum(), at)
        delta = delta + 0.5 * eps * slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-30)
        delta = delta * (eps / delta.norm(dim=1, keepdim=True)).clamp(max=1.0)
    return (x + delta).detach()


@cache
def images(data: str, part: str, n: int) -> tuple[Tensor, Tensor]:
    """Images of MNIST at 14 x 14 pixels, each of norm 1, and their labels."""
    samples = load_data(Path(data) / f"{part}.parquet")[:n]
    small = torch.nn.functional.avg_pool2d(samples.floats(), 2).flatten(1)
    return small / small.norm(dim=1, keepdim=True), samples.y


def trained(
    scale: float, rate: float, seed: int, data: str, rho: float = 0.1, pairs: int = 100
) -> list[dict[str, float]]:
    """Robust loss and accuracy on test images, and the spread over starts, after 0, 5, ... steps of
    SGD against PGA.
    """
    train, labels = images(data, "train", BATCH * PHASE)
    test, answers = images(data, "test", TESTED)
    train, test = scale * train, scale * test
    net = student(train.shape[1], pairs, seed)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    rows = [measured(net, test, answers, rho * scale)]
    for step in range(PHASE):
        index = order[step * BATCH : (step + 1) * BATCH]
        x = attacked(net, train[index], labels[index], rho * scale, 5, seed * PHASE + step)
        loss = net.loss(x, labels[index]).mean()
        slopes = torch.autograd.grad(loss, (net.hidden, net.out))
        with torch.no_grad():
            for weight, slope in zip((net.hidden, net.out), slopes, strict=True):
                weight -= rate * slope
        if step + 1 in CHECKS:
            rows.append(measured(net, test, answers, rho * scale))
    return rows


def measured(net: Student, x: Tensor, y: Tensor, eps: float) -> dict[str, float]:
    """Robust loss, robust accuracy, and the spread of the loss over starts."""
    points = [attacked(net, x, y, eps, 20, seed) for seed in range(STARTED)]
    ends = torch.stack([net.loss(point, y) for point in points]).detach()
    right = torch.stack([net(point).argmax(1) == y for point in points]).all(0).double().mean()
    spread = ((ends.amax(0) - ends.amin(0)) / ends.amax(0)).mean()
    finite = bool(ends.isfinite().all())
    return {
        "robust loss": min(float(ends.amax(0).double().mean()), DIVERGED) if finite else DIVERGED,
        "robust accuracy": float(right),
        "spread": float(spread) if finite else 1.0,
    }


def outer(data: str, scale: float, seeds: int = 6) -> dict[str, Any]:
    """Tune the rate on one seed, by each of two aims, then train on the others."""
    rates = [rate / scale**2 for rate in RATES]
    tried = {rate: trained(scale, rate, 100, data) for rate in rates}
    record: dict[str, Any] = {
        "tried": {
            f"{rate:.3g}": {aim: of(rows) for aim, of in AIMS.items()}
            for rate, rows in tried.items()
        }
    }
    for aim, of in AIMS.items():
        scores = {rate: of(rows) for rate, rows in tried.items()}
        best = min(scores, key=scores.__getitem__)
        record[aim] = {
            "rate": best,
            "at the edge": best in (rates[0], rates[-1]),
            "runs": [trained(scale, best, seed, data) for seed in range(seeds)],
        }
    return record


def last_loss(rows: list[dict[str, float]]) -> float:
    """The robust loss after the last step."""
    return rows[-1]["robust loss"]


def mean_loss(rows: list[dict[str, float]]) -> float:
    """The mean robust loss over the steps at which it is measured, but the first."""
    return statistics.fmean(row["robust loss"] for row in rows[1:])


AIMS = {"last": last_loss, "all along": mean_loss}
"""What a rate is tuned for: the loss at the end of the phase, or all through it."""


# ── the page ──────────────────────────────────────────────────────────────────────────────────────
def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the 95 % interval, by Student's t."""
    from scipy.stats import t

    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan
    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(t.ppf(0.975, len(values) - 1)) * error


def shown(values: list[float], digits: int = 3) -> str:
    """A mean with its interval."""
    mean, half = interval(values)
    return f"{mean:.{digits}g} ± {half:.1g}"


def inner_row(job: dict[str, Any]) -> str:
    """An inner job as a row."""
    nets = job["nets"]
    counts = sorted(math.inf if n["iterations"] is None else n["iterations"] for n in nets)
    low, high = counts[0], counts[-1]
    middle = counts[len(counts) // 2]
    most = [f"> {job['most']}" if math.isinf(n) else f"{n:g}" for n in (middle, low, high)]
    reached = [n["steps to share of the gain"]["0.99"] for n in nets]
    known = [n for n in reached if n is not None]
    cells = [
        job["activation"],
        f"{job['scale']:g}",
        f"{job['width']}",
        f"{job['d']}",
        f"{job['rho']:g}",
        f"{most[0]} ({most[1]} to {most[2]})",
        f"{statistics.median(known):g}" if known else "",
        shown([n["align"] for n in nets], 4),
        f"{min(n['boundary'] for n in nets):.4f}",
        f"{statistics.mean(n['spread'] for n in nets):.2g}",
        f"{statistics.mean(n['maxima'] for n in nets):.3g}",
    ]
    return f"| {' | '.join(cells)} |"


def outer_row(job: dict[str, Any], aim: str) -> str:
    """An outer job, with the rate tuned for one aim, as a row."""
    found = job[aim]
    steps = (0, *CHECKS)
    losses = [shown([run[i]["robust loss"] for run in found["runs"]]) for i in range(len(steps))]
    accuracy = shown([100 * run[-1]["robust accuracy"] for run in found["runs"]])
    spread = f"{statistics.mean(run[-1]['spread'] for run in found['runs']):.2g}"
    edge = " (at the edge)" if found["at the edge"] else ""
    cells = [aim, f"{job['scale']:g}", f"{found['rate']:.3g}{edge}", *losses, accuracy, spread]
    return f"| {' | '.join(cells)} |"


def faster(jobs: list[dict[str, Any]], aim: str) -> list[str]:
    """By how much each scale's robust loss is below that of the next larger one, seed by seed."""
    rows = []
    for small, large in itertools.pairwise(jobs):
        pairs = list(zip(small[aim]["runs"], large[aim]["runs"], strict=True))
        cells = [
            below([b[i]["robust loss"] - a[i]["robust loss"] for a, b in pairs])
            for i in range(1, 1 + len(CHECKS))
        ]
        rows.append(
            f"| {aim} | {small['scale']:g} below {large['scale']:g} | {' | '.join(cells)} |"
        )
    return rows


def below(differences: list[float]) -> str:
    """A difference with its interval, marked by whether the interval leaves 0 out."""
    mean, half = interval(differences)
    mark = "yes" if mean > half else "no" if mean < -half else "open"
    return f"{mean:.3g} ± {half:.1g} {mark}"


def exponents(jobs: list[dict[str, Any]], axis: str) -> list[str]:
    """With which power of an axis the number of iterations grows, for each activation."""
    from scipy.stats import linregress, t

    rows = []
    base = {"width": 400, "d": 100, "scale": 1.0, "rho": 0.3}
    for activation in ACTIVATIONS:
        points = [
            (math.log(job[axis]), math.log(net["iterations"]))
            for job in jobs
            if job["activation"] == activation
            and all(job[name] == value for name, value in base.items() if name != axis)
            for net in job["nets"]
            if net["iterations"] is not None
        ]
        if len({x for x, _ in points}) < 2 or activation == "relu":
            continue
        fit = linregress(*zip(*points, strict=True))
        half = float(t.ppf(0.975, len(points) - 2)) * fit.stderr
        rows.append(f"| {activation} | {axis} | {fit.slope:.3f} ± {half:.2f} | {len(points)} |")
    return rows


def settled(jobs: list[dict[str, Any]]) -> list[str]:
    """How many networks settle, by activation and input scale, at the same width, d and rho."""
    rows = []
    for job in jobs:
        if (job["width"], job["d"], job["rho"]) != (400, 100, 0.3):
            continue
        nets = job["nets"]
        share = Rate(sum(net["iterations"] is not None for net in nets), len(nets))
        spread = shown([net["spread"] for net in nets], 2)
        maxima = shown([net["maxima"] for net in nets])
        cells = [
            job["activation"],
            f"{job['scale']:g}",
            f"{share.hits} of {share.n} [{100 * share.low:.0f}, {100 * share.high:.0f}] %",
            spread,
            maxima,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def table(jobs: list[dict[str, Any]]) -> str:
    """The results page."""
    axes = ("activation", "width", "d", "rho", "scale")
    inside = [job for job in jobs if job["what"] == "inner"]
    inside.sort(key=lambda job: [job[axis] for axis in axes])
    outside = sorted((job for job in jobs if job["what"] == "outer"), key=lambda job: job["scale"])
    steps = " | ".join(f"after {k}" for k in CHECKS)
    lines = [
        "# Dynamics of the first-order adversary",
        "",
        "Made by `isthmus sweep experiments/adversary_dynamics.toml --gather`.",
        "",
        "## The inner problem at random weights",
        "",
        f"{NETS} networks, {STARTS} starts each, tolerance {TOLERANCE:g} of the radius, float64.",
        "Iterations to tolerance: median over networks (least to most); then the steps to 99 % of",
        "the gain of the best start, cosine of perturbation and gradient with its 95 % interval",
        "over networks, least norm over the radius, spread over starts, distinct maxima.",
        "",
        "| activation | input scale | width | d | rho | iterations | to 99 % | alignment | boundary"
        " | spread | maxima |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *map(inner_row, inside),
        "",
        "Iterations grow with a power of width or dimension; 95 % interval, networks that settled:",
        "",
        "| activation | of | power | networks |",
        "|---|---|---|---|",
        *exponents(inside, "width"),
        *exponents(inside, "d"),
        "",
        "Networks of width 400, d 100, rho 0.3 whose median start settles within 1,000 steps:",
        "",
        "| activation | input scale | settle | spread | maxima |",
        "|---|---|---|---|---|",
        *settled(inside),
        "",
        "## The initial phase of adversarial training",
        "",
        f"MNIST at 14 x 14, tanh, 200 hidden units, {PHASE} steps of SGD, batch {BATCH}, rho 0.1,",
        f"PGA with 5 steps; rates tuned on a seed of their own among {len(RATES)}, from",
        f"{RATES[0]:.1e} to {RATES[-1]:.1e} over the squared scale, for the last loss or for the",
        f"mean of all that are measured. Robust loss on {TESTED} test images under PGA with 20",
        f"steps from {STARTED} starts; mean, 95 % interval, six seeds.",
        "",
        f"| tuned for | input scale | rate | at the start | {steps} | robust accuracy, %"
        " | spread |",
        "|---|---|---|---|" + "---|" * len(CHECKS) + "---|---|",
        *(outer_row(job, aim) for aim in AIMS for job in outside),
        "",
        "How far the loss at a scale is below that at the next larger one, over pairs of one seed;",
        "yes or no where the 95 % interval leaves out 0:",
        "",
        f"| tuned for | is the loss at | {steps} |",
        "|---|---|" + "---|" * len(CHECKS),
        *(row for aim in AIMS for row in faster(outside, aim)),
    ]
    return "\n".join(lines) + "\n"

"""Table: false alarms of the health of an attack, networks that fool evaluators, and the health of
an attack along a path between a standard and a robust network.

    isthmus sweep experiments/attack_health.toml             a file per job
    isthmus sweep experiments/attack_health.toml --gather    docs/results/attack_health.md

The networks are those of tests/support/foolers.py, on scikit-learn's digits. Every honest network
has a seed of its own, and is attacked with PGD-10 from two starts.
"""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from isthmus import Bezier, Data, Linf, expected_over_t, fit
from isthmus.attacks import INDICATORS, PGD, Square, WorstOf, ZeroGradients, examine, health
from isthmus.attacks.inputs.objectives import margin
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, Rate, RobustAccuracy, as_record, evaluate_path
from isthmus.training import cross_entropy

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.foolers import ATTACK, BALL, FOOLERS, HONEST, digits, trained

FITTED = range(4)
"""The seeds of the honest networks that measured thresholds were set on."""
POINTS = 5
APART = "of two seeds"


def stronger(ball: Linf) -> tuple[PGD, Square]:
    """What is run on samples that PGD-10 leaves."""
    return PGD(ball, steps=50, restarts=3, objective=margin), Square(ball, queries=300)


def name_of(
    what: str, kind: str, seed: int = 0, robust: bool = False, ends: str = "of one seed"
) -> str:
    """Return a job's name: that of its file."""
    words = "".join(c if c.isalnum() else "-" for c in kind.lower())
    further = ""
    if what == "honest":
        further = "-robust" if robust else "-standard"
    if what == "path" and ends == APART:
        further = "-apart"
    return f"{what}-{words}{further}-{seed}"


def run(
    what: str, kind: str, seed: int = 0, robust: bool = False, ends: str = "of one seed"
) -> dict[str, Any]:
    """Do one job: an honest network, one that fools, or a path between two networks, whose ends
    are of one seed or apart.
    """
    warnings.simplefilter("ignore", ZeroGradients)
    _, test = digits()
    if what == "path":
        record = _path(kind, seed, ends, test)
    else:
        work = {"honest": _honest, "fooler": _fooler, "alarm": _alarm}[what]
        record = work(kind, seed, robust, test)
    return {
        "what": what,
        "kind": kind,
        **record,
        "provenance": provenance(seed, {"test": test}).record(),
    }


def _honest(kind: str, seed: int, robust: bool, test: Data) -> dict[str, Any]:
    net = trained(HONEST[kind], robust=robust, seed=seed)
    attacked = RobustAccuracy(test, ATTACK, examine=examine)(net)
    clean = as_record(Accuracy(test)(net))
    return {"seed": seed, "robust": robust, "accuracy": clean, "attacked": as_record(attacked)}


def _alarm(kind: str, seed: int, robust: bool, test: Data) -> dict[str, Any]:
    """What a stronger attack leaves of an honest network of a kind that was flagged."""
    net = trained(HONEST[kind], robust=robust, seed=seed)
    attacked = RobustAccuracy(test, ATTACK)(net)
    known = RobustAccuracy(test, WorstOf((ATTACK, *stronger(BALL))))(net)
    return {"seed": seed, "before": as_record(attacked), "after": as_record(known)}


def _fooler(kind: str, seed: int, robust: bool, test: Data) -> dict[str, Any]:
    fooler = FOOLERS[kind]
    if fooler.stronger is None:  # the tests are content with a shorter attack on fewer images
        fooler = replace(fooler, attack=ATTACK, samples=len(test))
    net = fooler.make()
    some = test[: fooler.samples]
    before = RobustAccuracy(some, fooler.attack)(net)
    stronger = fooler.stronger
    after = None if stronger is None else as_record(RobustAccuracy(some, stronger)(net))
    return {
        "accuracy": as_record(Accuracy(some)(net)),
        "before": as_record(before),
        "single passes": _single(net, some, fooler.attack) if stronger is None else None,
        "after": after,
        "stronger": type(stronger).__name__,
        "reasons": list(fooler.reasons),
        "health": health(net, some, fooler.attack).record,
    }


def _single(net: Any, some: Data, attack: PGD) -> dict[str, Any]:
    """What an attack that takes one pass for an answer finds: gradients of one draw, and the
    accuracy of one further pass.
    """
    from isthmus.models import noise

    draws, noise.DRAWS = noise.DRAWS, 1
    try:
        moved = attack(net, some.floats(), some.y)
    finally:
        noise.DRAWS = draws
    return as_record(Accuracy(Data(moved, some.y, some.classes))(net))


def _path(kind: str, seed: int, ends: str, test: Data) -> dict[str, Any]:
    """The health along a trained curve and along a straight line."""
    start = trained(HONEST[kind], seed=seed)
    end = trained(HONEST[kind], robust=True, seed=seed + 100 if ends == APART else seed)
    training, _ = digits()
    curves = {"straight": Bezier(start, end, bends=0), "curve": Bezier(start, end, bends=1)}
    fit(
        curves["curve"],
        training,
        expected_over_t(cross_entropy),
        steps=300,
        lr=0.05,
        batch_size=64,
        device="cpu",
        precision="fp32",
        seed=seed,
    )
    attack = PGD(Linf(0.1), steps=10, restarts=3)
    metrics = {
        "accuracy": Accuracy(test),
        "robust accuracy": RobustAccuracy(test, attack, examine=examine),
        "under a stronger attack": RobustAccuracy(test, WorstOf((attack, *stronger(attack.ball)))),
    }
    return {
        "seed": seed,
        "ends": ends,
        "paths": {
            name: evaluate_path(curve, metrics, POINTS, recalibrate_on=training).record()
            for name, curve in curves.items()
        },
    }


# ── the page ──────────────────────────────────────────────────────────────────────────────────────
def percent(record: dict[str, Any] | None) -> str:
    """A share with its interval."""
    if record is None:
        return ""
    rate = Rate(record["hits"], record["n"])
    return f"{100 * rate:.1f} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def fires(entry: dict[str, Any]) -> bool | None:
    """Whether an indicator fires, by the threshold that it has now; None: not measured."""
    row = {indicator.name: indicator for indicator in INDICATORS}[entry["name"]]
    if entry["value"] is None:
        return None
    return entry["value"] < row.threshold if row.below else entry["value"] > row.threshold


def fired(health: dict[str, Any], *, decisive: bool | None = None) -> list[str]:
    """The names of the indicators that fire."""
    return [
        entry["name"]
        for entry in health["indicators"]
        if fires(entry) and decisive in (None, entry["decisive"])
    ]


def table(jobs: list[dict[str, Any]]) -> str:
    """The results page."""
    honest = [job for job in jobs if job["what"] == "honest"]
    lines = [
        "# The health of an attack",
        "",
        "Made by `isthmus sweep experiments/attack_health.toml --gather`. Digits, 160 test images,",
        f"l-inf {BALL.eps:g}, PGD-10 from two starts; shares in percent with 95 % intervals.",
        "",
        *false_alarms(honest),
        "",
        *alarms([job for job in jobs if job["what"] == "alarm"], honest),
        "",
        *foolers([job for job in jobs if job["what"] == "fooler"]),
        "",
        *paths([job for job in jobs if job["what"] == "path"]),
    ]
    return "\n".join(lines) + "\n"


def false_alarms(jobs: list[dict[str, Any]]) -> list[str]:
    """How often each indicator fires on honest networks, and the values it takes there."""
    fresh = [job for job in jobs if job["seed"] not in FITTED]
    fitted = [job for job in jobs if job["seed"] in FITTED]
    known = {job["kind"] for job in jobs}
    lines = [
        "## False alarms on honest networks",
        "",
        f"{', '.join(sorted(known))}; standard and trained against PGD. How many fired:",
        "",
        f"- Fresh, seeds that no threshold was set on: {verdicts(fresh)}",
        f"- Seeds {FITTED[0]} to {FITTED[-1]}, which measured thresholds were set on: "
        f"{verdicts(fitted)}",
        "",
        "| indicator | decisive | threshold | fresh | others | least | median | most |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in INDICATORS:
        values = sorted(v for _, v in measured(row.name, jobs))
        shown = ["", "", ""]
        if values:
            shown = [f"{v:.3g}" for v in (values[0], values[len(values) // 2], values[-1])]
        bound = (
            "" if math.isinf(row.threshold) else f"{'<' if row.below else '>'} {row.threshold:g}"
        )
        alarms = [
            f"{sum(alarm for alarm, _ in found)} of {len(found)}"
            for found in (measured(row.name, fresh), measured(row.name, fitted))
        ]
        cells = [row.name, "yes" if row.decisive else "", bound, *alarms, *shown]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def measured(name: str, jobs: list[dict[str, Any]]) -> list[tuple[bool, float]]:
    """Whether an indicator fires, and its value, for each network on which it was measured."""
    return [
        (bool(fires(entry)), entry["value"])
        for job in jobs
        for entry in job["attacked"]["health"]["indicators"]
        if entry["name"] == name and entry["value"] is not None
    ]


def verdicts(jobs: list[dict[str, Any]]) -> str:
    """How many networks are not trustworthy, with the interval, and which."""
    flagged = [job for job in jobs if fired(job["attacked"]["health"], decisive=True)]
    if not jobs:
        return "none was run."
    names = [
        f"{job['kind']}, {'robust' if job['robust'] else 'standard'}, seed {job['seed']}: "
        + ", ".join(fired(job["attacked"]["health"], decisive=True))
        for job in flagged
    ]
    share = percent(as_record(Rate(len(flagged), len(jobs))))
    tail = f" ({'; '.join(names)})" if names else ""
    return f"{len(flagged)} of {len(jobs)} not trustworthy, {share} %{tail}."


def alarms(jobs: list[dict[str, Any]], honest: list[dict[str, Any]]) -> list[str]:
    """What a stronger attack leaves of networks of the kind that was flagged, flagged or not."""
    flagged = {
        (job["kind"], job["seed"])
        for job in honest
        if job["robust"] and fired(job["attacked"]["health"], decisive=True)
    }
    lines = [
        "What a stronger attack leaves of fresh networks of the kind that was flagged: PGD with 50",
        "steps from three starts on the margin, then Square with 300 queries.",
        "",
        "| trained against PGD | flagged | PGD-10 | stronger | points |",
        "|---|---|---|---|---|",
    ]
    for job in sorted(jobs, key=lambda job: job["seed"]):
        fall = (job["before"]["hits"] - job["after"]["hits"]) / job["before"]["n"]
        cells = [
            f"{job['kind']}, seed {job['seed']}",
            "yes" if (job["kind"], job["seed"]) in flagged else "",
            percent(job["before"]),
            percent(job["after"]),
            f"{100 * fall:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def foolers(jobs: list[dict[str, Any]]) -> list[str]:
    """What fools, whether it is flagged for its reason, and what a stronger attack leaves."""
    lines = [
        "## Networks and attacks that fool",
        "",
        "Of random networks, before is PGD with one draw for a gradient and one pass for an",
        "answer; after is what the tool does by itself: 20 draws a gradient, 100 an answer.",
        "",
        "| | accuracy | before | after | by | fired (bold: the reason) |",
        "|---|---|---|---|---|---|",
    ]
    for job in jobs:
        names = [f"**{name}**" if name in job["reasons"] else name for name in fired(job["health"])]
        before, after, by = job["before"], job["after"], job["stronger"]
        if after is None:
            before, after, by = job["single passes"], job["before"], "draws"
        cells = [job["kind"], percent(job["accuracy"]), percent(before), percent(after), by]
        lines.append(f"| {' | '.join([*cells, ', '.join(names)])} |")
    return lines


def paths(jobs: list[dict[str, Any]]) -> list[str]:
    """Whether the attack is as healthy in the middle of a path as at its ends."""
    lines = [
        "## Along a path between a standard and a robust network",
        "",
        "Start: standard; end: trained against PGD. PGD-10 from three starts within l-inf 0.1;",
        "then PGD with 50 steps from three starts on the margin and Square with 300 queries on",
        "what stands. Spread and alignment are those of samples that stand.",
        "",
        "| network, seed, ends, path | t | accuracy | PGD-10 | stronger | spread | alignment"
        " | fired |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for job in jobs:
        for path, record in job["paths"].items():
            for i, t in enumerate(record["t"]):
                lines.append(_point(job, path, t, {k: v[i] for k, v in record["values"].items()}))
    return [*lines, "", *barriers(jobs)]


def barriers(jobs: list[dict[str, Any]]) -> list[str]:
    """How deep the least robust point of each path lies below its ends, by either attack."""
    lines = [
        "How far the least of the points between lies below the less robust end, in points:",
        "",
        "| network, seed, ends, path | PGD-10 | stronger | most that stronger takes off |",
        "|---|---|---|---|",
    ]
    for job in jobs:
        for path, record in job["paths"].items():
            values = record["values"]
            weak, strong = (
                [entry["hits"] / entry["n"] for entry in values[name]]
                for name in ("robust accuracy", "under a stronger attack")
            )
            depths = [min(v[0], v[-1]) - min(v[1:-1]) for v in (weak, strong)]
            gaps = [a - b for a, b in zip(weak, strong, strict=True)]
            most = max(range(len(gaps)), key=gaps.__getitem__)
            cells = [_named(job, path), *(f"{100 * depth:.1f}" for depth in depths)]
            cells.append(f"{100 * gaps[most]:.1f} at t = {record['t'][most]:g}")
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _named(job: dict[str, Any], path: str) -> str:
    return f"{job['kind']}, {job['seed']}, {job['ends']}, {path}"


def _point(job: dict[str, Any], path: str, t: float, values: dict[str, Any]) -> str:
    robust = values["robust accuracy"]
    entries = {entry["name"]: entry["value"] for entry in robust["health"]["indicators"]}
    names = ("spread over restarts", "alignment")
    shown = ["" if entries[name] is None else f"{entries[name]:.3f}" for name in names]
    reasons = ", ".join(fired(robust["health"], decisive=True))
    shares = [percent(values["accuracy"]), percent(robust)]
    shares.append(percent(values["under a stronger attack"]))
    return f"| {' | '.join([_named(job, path), f'{t:g}', *shares, *shown, reasons])} |"

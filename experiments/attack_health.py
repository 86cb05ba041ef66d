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
from pathlib import Path
from typing import Any

from isthmus import Bezier, Data, Linf, expected_over_t, fit
from isthmus.attacks import INDICATORS, PGD, ZeroGradients, examine, health
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, Rate, RobustAccuracy, as_record, evaluate_path
from isthmus.training import cross_entropy

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.foolers import ATTACK, BALL, FOOLERS, HONEST, digits, trained

POINTS = 5


def name_of(what: str, kind: str, seed: int = 0, robust: bool = False) -> str:
    """Return a job's name: that of its file."""
    words = "".join(c if c.isalnum() else "-" for c in kind.lower())
    trained_how = ("-robust" if robust else "-standard") if what == "honest" else ""
    return f"{what}-{words}{trained_how}-{seed}"


def run(what: str, kind: str, seed: int = 0, robust: bool = False) -> dict[str, Any]:
    """Do one job: an honest network, one that fools, or a path."""
    warnings.simplefilter("ignore", ZeroGradients)
    _, test = digits()
    work = {"honest": _honest, "fooler": _fooler, "path": _path}[what]
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


def _fooler(kind: str, seed: int, robust: bool, test: Data) -> dict[str, Any]:
    fooler = FOOLERS[kind]
    net = fooler.make()
    some = test[: fooler.samples]
    before = RobustAccuracy(some, fooler.attack)(net)
    stronger = fooler.stronger
    after = None if stronger is None else as_record(RobustAccuracy(some, stronger)(net))
    return {
        "accuracy": as_record(Accuracy(some)(net)),
        "before": as_record(before),
        "single passes": _single(net, some) if stronger is None else None,
        "after": after,
        "stronger": type(stronger).__name__,
        "reasons": list(fooler.reasons),
        "health": health(net, some, fooler.attack).record,
    }


def _single(net: Any, some: Data) -> dict[str, Any]:
    """What an attack that takes one pass for an answer finds: gradients of one draw, and the
    accuracy of one further pass.
    """
    from isthmus.models import noise

    draws, noise.DRAWS = noise.DRAWS, 1
    try:
        moved = PGD(BALL, steps=5)(net, some.floats(), some.y)
    finally:
        noise.DRAWS = draws
    return as_record(Accuracy(Data(moved, some.y, some.classes))(net))


def _path(kind: str, seed: int, robust: bool, test: Data) -> dict[str, Any]:
    """The health along a trained curve and along a straight line."""
    ends = [trained(HONEST[kind], robust=hard, seed=seed) for hard in (False, True)]
    training, _ = digits()
    curves = {"straight": Bezier(*ends, bends=0), "curve": Bezier(*ends, bends=1)}
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
    metrics = {"accuracy": Accuracy(test), "robust accuracy": _probed(test)}
    return {
        "seed": seed,
        "paths": {
            name: evaluate_path(curve, metrics, POINTS, recalibrate_on=training).record()
            for name, curve in curves.items()
        },
    }


def _probed(test: Data) -> RobustAccuracy:
    return RobustAccuracy(test, PGD(Linf(0.1), steps=10, restarts=3), examine=examine)


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
        *foolers([job for job in jobs if job["what"] == "fooler"]),
        "",
        *paths([job for job in jobs if job["what"] == "path"]),
    ]
    return "\n".join(lines) + "\n"


def false_alarms(jobs: list[dict[str, Any]]) -> list[str]:
    """How often each indicator fires on honest networks, and the values it takes there."""
    healths = [job["attacked"]["health"] for job in jobs]
    flagged = sum(bool(fired(health, decisive=True)) for health in healths)
    known = {job["kind"] for job in jobs}
    lines = [
        "## False alarms on honest networks",
        "",
        f"{len(jobs)} networks: {', '.join(sorted(known))}; standard and trained against PGD.",
        f"Not trustworthy: {flagged} of {len(jobs)}"
        + (f" ({percent(as_record(Rate(flagged, len(jobs))))} %)." if jobs else "."),
        "",
        "| indicator | decisive | threshold | fired | least | median | most |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in INDICATORS:
        entries = [
            entry
            for health in healths
            for entry in health["indicators"]
            if entry["name"] == row.name
        ]
        values = sorted(entry["value"] for entry in entries if entry["value"] is not None)
        count = sum(bool(fires(entry)) for entry in entries)
        shown = ["", "", ""]
        if values:
            shown = [f"{v:.3g}" for v in (values[0], values[len(values) // 2], values[-1])]
        bound = (
            "" if math.isinf(row.threshold) else f"{'<' if row.below else '>'} {row.threshold:g}"
        )
        alarms = f"{count} of {len(values)}"
        cells = [row.name, "yes" if row.decisive else "", bound, alarms, *shown]
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
        "Start: standard; end: trained against PGD. PGD-10 from three starts within l-inf 0.1.",
        "Spread and alignment are those of samples that stand; a fall is by how much a longer",
        "attack on the margin would lower the robust accuracy, at least.",
        "",
        "| network, seed, path | t | accuracy | robust | spread | alignment | fall | fired |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for job in jobs:
        for path, record in job["paths"].items():
            for i, t in enumerate(record["t"]):
                lines.append(_point(job, path, t, {k: v[i] for k, v in record["values"].items()}))
    return lines


def _point(job: dict[str, Any], path: str, t: float, values: dict[str, Any]) -> str:
    robust = values["robust accuracy"]
    entries = {entry["name"]: entry["value"] for entry in robust["health"]["indicators"]}
    names = ("spread over restarts", "alignment", "longer attack ahead")
    shown = ["" if entries[name] is None else f"{entries[name]:.3f}" for name in names]
    reasons = ", ".join(fired(robust["health"], decisive=True))
    first = f"{job['kind']}, {job['seed']}, {path}"
    shares = [percent(values["accuracy"]), percent(robust)]
    return f"| {' | '.join([first, f'{t:g}', *shares, *shown, reasons])} |"

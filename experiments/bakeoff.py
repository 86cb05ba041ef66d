"""Run: attacks x defenses on CIFAR-10, one checkpoint, no trigger.

    python experiments/bakeoff.py --data DIR --scale small [--attacks NAME ...] [--seeds 0 1]
        [--sizes N ...] [--defenses NAME ...]          a part of it, or samples in other numbers

DIR holds train.parquet and test.parquet in the Hugging Face layout; `scale.py` says what a scale
is, `attackers.py` who attacks, `bakeoff_tables.py` what came of it. Bonafide samples are drawn from
the training split and are not among the attacker's (protocol B, disjoint); test images judge. Every
defense gets the same samples and may spend the same number of gradient evaluations in all, the
settings that it tries included; each network that it makes on the way is a row, with the accuracy
on held-out samples that a defender sees. Rows are written once computed, and not computed again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from attackers import ATTACKS, Sent, drawn
from command import Sets, parser, slug
from scale import SCALES, Scale
from torch import nn

from isthmus import Data, split
from isthmus.attacks import IMAGES, Reactivate
from isthmus.curves import CURVE_TRAINING, Route
from isthmus.data import Parts
from isthmus.defenses import (
    ANP,
    BONAFIDE,
    CLP,
    FAR,
    FTSAM,
    IBAU,
    KINDS,
    NAD,
    TAC,
    TSC,
    ULRL,
    FinePrune,
    FineTune,
    FromScratch,
    GaussianNoise,
    InvertedSuccess,
    Selection,
    averaged_repairs,
    fixed,
    invert,
    repair,
)
from isthmus.evidence import provenance
from isthmus.metrics import (
    Accuracy,
    Agreement,
    AttackSuccess,
    RecoveryAccuracy,
    as_records,
    check_above_chance,
    evaluate_path,
    linear_barrier,
    measure,
    planted,
)
from isthmus.runs import read_json, sha256_of, write_json
from isthmus.training import Training
from isthmus.types import BadInput, Defense, Metric

RESULTS = Path("results/bakeoff")
SIZES, JUDGES = (2500, 500), 3000
GRID = tuple(round(0.1 + 0.03 * i, 2) for i in range(11))  # t of the path
STRAIGHT, STRETCH = "path, to averaged repairs", (0.6, 0.7, 0.8, 0.9, 1.0)  # and the t on it
STRONGEST = ("fine-tune", "FT-SAM", "I-BAU", "NAD")
WHOLE: dict[str, tuple[str, float]] = {  # rivals who spend all on one setting, and what they are
    "FT-SAM, rho 4, all": ("FT-SAM", 4.0),
    "FT-SAM, rho 8, all": ("FT-SAM", 8.0),
    "fine-tune, lr 0.2, all": ("fine-tune", 0.2),
}
BEFOREHAND, CONTROL = "path, beforehand", "never poisoned"  # rows of their own tables
WOKEN = (BEFOREHAND, "FT-SAM, rho 4, all", CONTROL)
SHARES = (0.1, 0.2, 0.4)  # of the budget: how few steps repair
PLAN = 4  # raised when `plan` gets another row: finished jobs are gone through again for it
Rows = Any  # JSON


def families(
    scale: Scale, seed: int
) -> dict[str, tuple[Callable[[Any, int], Defense], Sequence[Any]]]:
    """The rivals: how each is made of a setting and a budget, and the settings it tries, weakest
    first.
    """

    def spent(lr: float, gradients: int) -> Training:
        return Training(steps=gradients, lr=lr, weight_decay=1e-4, augment=scale.augment, seed=seed)

    return {
        "fine-tune": (lambda lr, g: FineTune(spent(lr, g)), (0.02, 0.05, 0.1)),
        "FT-SAM": (lambda rho, g: FTSAM(spent(0.05, g), rho=rho), (1.0, 2.0, 4.0)),
        "fine-prune": (
            lambda share, g: FinePrune(spent(0.02, g), share, by="dormancy"),
            (0.3, 0.6, 0.9),
        ),
        "NAD": (lambda lr, g: NAD(spent(lr, g)), (0.02, 0.05, 0.1)),
        "ULRL": (lambda lr, g: ULRL(spent(lr, g)), (0.005, 0.02, 0.05)),
        "TAC": (lambda lr, g: TAC(spent(lr, g)), (0.02, 0.05, 0.1)),
        "I-BAU": (lambda lr, g: IBAU(spent(lr, g)), (0.001, 0.003, 0.01)),
        "TSC": (lambda t, g: TSC(spent(0.02, g), t), (0.4,)),
        "ANP": (lambda tolerance, g: ANP(spent(0.2, g), tolerance=tolerance), (0.05,)),
        "CLP": (lambda u, g: CLP(u), (5.0, 4.0, 3.0)),
        "noise": (lambda lr, g: GaussianNoise(FineTune(spent(lr, g)), "around"), (0.05,)),
        "from scratch": (lambda lr, g: FromScratch(spent(lr, g)), (0.1,)),
    }


def stand_ins(tampered: nn.Module, fitted: Data, held_out: Data) -> dict[str, Metric]:
    """What a defender can watch along the path beside accuracy, at a price that fits this table."""
    found: dict[str, Metric] = {"agreement": Agreement(tampered, held_out)}
    for kind in KINDS:
        triggers = invert(
            tampered,
            fitted,
            kind=kind,
            steps=60,
            starts=1,
            targets=[*range(fitted.num_classes), "any"],
        )
        oddest = min(triggers, key=lambda each: each.score)
        found |= {
            kind: InvertedSuccess(held_out, [oddest]),
            f"{kind}, mean": InvertedSuccess(held_out, triggers, "mean"),
        }
    return found


@dataclass(frozen=True)
class Bench:
    """One received network and all that it takes to judge repairs of it with n samples."""

    sent: Sent
    scale: Scale
    seed: int
    bonafide: Data
    judged: Data
    judges: dict[str, Metric]
    clean: Callable[[], nn.Module]  # trains a network that was never poisoned

    def parts(self) -> Parts:
        """Return the samples that train and those held out, for `repair` and its rivals alike."""
        return Parts.of(self.bonafide, seed=self.seed)

    def row(self, net: nn.Module, **more: Any) -> dict[str, Any]:
        """Return what the defender and the judges measure on one network."""
        metrics = {BONAFIDE: Accuracy(self.parts().held_out), **self.judges}
        return {**more, **as_records(measure(net, metrics))}

    def rival(self, name: str) -> list[dict[str, Any]]:
        """Return a row for every setting of a rival; a refusal is a row too."""
        make, settings = families(self.scale, self.seed)[name]
        return [
            self.tried(make(setting, self.scale.gradients // len(settings)), setting)
            for setting in settings
        ]

    def tried(self, defense: Defense, setting: Any) -> dict[str, Any]:
        """Return the row of one setting."""
        began = time.perf_counter()
        try:
            net = defense(self.sent.network, self.parts().fitted)
        except BadInput as error:
            return {"setting": setting, "refused": str(error)}
        return self.row(net, setting=setting, seconds=time.perf_counter() - began)

    def path(
        self,
        gradients: int,
        *,
        watch: bool = False,
        wake: bool = False,
        other: nn.Module | Defense | None = None,
        bends: int = 1,
        points: Sequence[float] = GRID,
    ) -> dict[str, Any]:
        """Return the path: what the defender sees, and what the judges say, at every t.

        `seconds` is what the repair took. `watch` adds what the rules of `rules.py` look at, and
        `wake` what a few triggered images bring back at the last of the points.
        """
        began = time.perf_counter()
        parts = self.parts()
        found = repair(
            self.sent.network,
            parts,
            other,
            route=Route(bends=bends),
            training=self.curve_training(max(1, gradients // 2)),
            selection=Selection(fixed(points[-1]), points=points),
        )
        seconds = time.perf_counter() - began
        along = partial(evaluate_path, found.networks, t=found.path.t)
        record = {
            "seconds": seconds,
            "seen": found.path.record(),
            "judged": along(self.judges).record(),
        }
        if watch:
            seen = along(stand_ins(self.sent.network, parts.fitted, parts.held_out)).record()
            record["seen"]["values"] |= seen["values"]
        if wake:
            record["re-activation"] = self.woken(found.model)
        return record

    def straight(self, end: Defense, **how: Any) -> dict[str, Any]:
        """Return the path straight to what a defense makes, as `repair` takes with few samples."""
        return self.path(0, other=end, bends=0, points=STRETCH, **how)

    def averaged(self) -> Defense:
        """Return the end of the path that `repair` takes with few samples, a mean of two
        repairs.
        """
        return averaged_repairs(self.curve_training(self.scale.gradients // 2))

    def curve_training(self, steps: int) -> Training:
        """Return how a curve is trained in that many steps, of two gradients each."""
        return CURVE_TRAINING.replace(steps=steps, augment=self.scale.augment, seed=self.seed)

    def whole(self, name: str) -> Defense:
        """Return a rival who spends the whole budget on one setting, as the path does."""
        family, setting = WHOLE[name]
        return families(self.scale, self.seed)[family][0](setting, self.scale.gradients)

    def woken(self, net: nn.Module) -> dict[str, Any]:
        """Return what a few triggered images bring back, and the barrier between a network and the
        tampered one.
        """
        fitted = self.parts().fitted
        rows = {}
        for images in IMAGES:
            woken = Reactivate(self.sent.trigger, self.sent.target, images, seed=self.seed)(
                net, fitted
            )
            rows[f"{images} images"] = as_records(measure(woken, self.judges))
        return {**rows, "barrier": linear_barrier(net, self.sent.network, fitted)}

    def control(self) -> dict[str, Any]:
        """Return the row of a network that was never poisoned: the floor, and what retuning teaches
        anew.
        """
        net = self.clean()
        return self.row(net, **{"re-activation": self.woken(net)})


def plan(bench: Bench) -> dict[str, Callable[[], Any]]:
    """What is run for one network and one number of samples: with the few, the strongest rivals
    alone.
    """
    names, most = list(families(bench.scale, bench.seed)), len(bench.bonafide) == max(SIZES)
    made: dict[str, Callable[[], Any]] = {"as received": lambda: bench.row(bench.sent.network)}
    made["path"] = partial(bench.path, bench.scale.gradients, watch=most)
    made[STRAIGHT] = partial(bench.straight, bench.averaged())
    if bench.sent.other is not None:
        made["path, to the second network"] = partial(
            bench.path, bench.scale.gradients, other=bench.sent.other
        )
    made |= {name: partial(bench.rival, name) for name in (names if most else STRONGEST)}
    for share in SHARES if most and bench.seed == 0 else ():
        gradients = int(share * bench.scale.gradients)
        made[f"path, {share:g} of the budget"] = partial(bench.path, gradients)
    made |= {
        name: partial(bench.straight, bench.whole(name), wake=most and name in WOKEN)
        for name in WHOLE
    }
    if most:
        made[BEFOREHAND] = partial(bench.path, bench.scale.gradients, points=(FAR,), wake=True)
        made[CONTROL] = bench.control
    return made


def pools(train: Data, seed: int) -> tuple[Data, Data]:
    """Return the bonafide samples and the attacker's, disjoint."""
    bonafide, theirs = split(train, [max(SIZES), len(train) - max(SIZES)], drawn(seed))
    return bonafide, theirs


@cache
def never_poisoned(scale: Scale, seed: int, sets: Sets) -> nn.Module:
    """Return a network trained as the attacker trains, on clean images: the control of all attacks
    of a seed.
    """
    return scale.trained(pools(sets.train, seed)[1], seed)


def staged(attack: str, seed: int, scale: Scale, sets: Sets) -> tuple[Bench, dict[str, Any]]:
    """Attack a network; return it with all bonafide samples and its judges, and what a record says
    first.
    """
    bonafide, theirs = pools(sets.train, seed)
    (judged,) = split(sets.test, [JUDGES], drawn(seed))
    sent = ATTACKS[attack](theirs, scale, seed)
    success = AttackSuccess(judged, sent.trigger, sent.target)
    judges: dict[str, Metric] = {
        "accuracy": Accuracy(judged),
        "attack success": success,
        "recovery accuracy": RecoveryAccuracy.beside(success),
    }
    record = {
        "attack": attack,
        "seed": seed,
        "network": sha256_of(*sent.network.state_dict().values()),
        "provenance": provenance(
            seed, {"bonafide": bonafide, "judged": judged, "attacker's": theirs}
        ).record(),
        "as received": as_records(measure(sent.network, judges)),
    }
    return Bench(
        sent, scale, seed, bonafide, judged, judges, partial(never_poisoned, scale, seed, sets)
    ), record


def job(attack: str, seed: int, args: argparse.Namespace, sets: Sets) -> None:
    """Attack a network, and repair it by every defense at every number of bonafide samples.

    An interrupted job attacks anew, which gives the same network on the same machine; on another
    one it starts over.
    """
    file, scale = RESULTS / args.scale / f"{slug(attack)}-seed{seed}.json", SCALES[args.scale]
    record: dict[str, Any] = read_json(file) if file.exists() else {}
    if finished(record, args):
        return
    began = time.perf_counter()
    bench, fresh = staged(attack, seed, scale, sets)
    if record.get("network") != fresh["network"]:
        record = {**fresh, "sizes": {}}
    try:
        check_above_chance(bench.sent.network, bench.bonafide)
        planted(bench.sent.network, bench.judged, bench.sent.trigger, bench.sent.target, least=0.5)
    except BadInput as weak:
        write_json(file, {**record, "refused": str(weak)})
        return
    for n in args.sizes or SIZES:
        rows = record["sizes"].setdefault(str(n), {})
        for name, made in plan(replace(bench, bonafide=bench.bonafide[:n])).items():
            if name not in rows and (not args.defenses or name in {"as received", *args.defenses}):
                rows[name] = made()
                write_json(file, record)
    if not (args.sizes or args.defenses):
        record["plan"] = PLAN
    write_json(
        file, {**record, "seconds": record.get("seconds", 0.0) + time.perf_counter() - began}
    )


def finished(record: Rows, args: argparse.Namespace) -> bool:
    """Whether a record holds all that was asked for; a part is named by its defenses."""
    if args.defenses:
        sizes = [record.get("sizes", {}).get(str(n), {}) for n in args.sizes or SIZES]
        return "refused" in record or all(name in rows for rows in sizes for name in args.defenses)
    return "refused" in record or (record.get("plan") == PLAN and not args.sizes)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    options.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    options.add_argument(
        "--sizes", type=int, nargs="+", help=f"numbers of samples, at most {max(SIZES)}"
    )
    options.add_argument("--defenses", nargs="+", help="rows of the table")
    args = options.parse_args()
    sets = Sets(args)
    for seed in args.seeds:
        for attack in args.attacks:
            job(attack, seed, args, sets)


if __name__ == "__main__":
    main()

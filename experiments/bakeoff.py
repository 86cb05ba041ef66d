"""Table: attacks x defenses on CIFAR-10, one checkpoint, no trigger (specification, sections 6, 11 to 13).

    python experiments/bakeoff.py run --data DIR --scale small [--attacks NAME ...] [--seeds 0 1]
        [--sizes N ...] [--defenses NAME ...]          a part of it, or samples in other numbers
    python experiments/bakeoff.py table --scale small          docs/results/bakeoff.md

DIR holds train.parquet and test.parquet in the Hugging Face layout; `scale.py` says what a scale is. Bonafide samples
are drawn from the training split and are not among the attacker's (protocol B, disjoint); test images judge. Every
defense gets the same samples and may spend the same number of gradient evaluations in all, the settings that it tries
included; each network that it makes on the way is a row, with the accuracy on held-out samples that a defender sees.
`table` then chooses by one rule for all: the strongest setting within five points of the received network's held-out
accuracy, or the strongest that held-out samples do not show to cost more than eight, which is `repair`'s own rule.
Rows are written as they are computed and not computed again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from command import Sets, parsed, parser
from scale import SCALES, Scale
from scipy.stats import t as student
from torch import nn

from isthmus import Data, Linf, fit, split
from isthmus.align import permutation_groups, permuted_weights, random_permutations
from isthmus.attacks import PGD
from isthmus.data import hold_out
from isthmus.defenses import ANP, CLP, FTSAM, IBAU, NAD, TSC, FinePrune, FineTune, FromScratch, GaussianNoise
from isthmus.files import read_json, write_json
from isthmus.inversion import KINDS, InvertedSuccess, invert
from isthmus.metrics import (
    Accuracy,
    Agreement,
    AttackSuccess,
    as_record,
    check_above_chance,
    from_record,
    least_drop,
    measure,
)
from isthmus.path import evaluate_path
from isthmus.provenance import provenance
from isthmus.repair import FAR, averaged_repairs, repair
from isthmus.select import BONAFIDE, fixed
from isthmus.threats import Hardened, InputAware, PermutationAware, label_consistent, path_aware, planted
from isthmus.train import Training
from isthmus.triggers import Blend, LowFrequency, Patch, Sinusoid, Target, Warp, poison
from isthmus.types import BadInput, Defense, Metric, Params, Trigger, sha256_of

RESULTS = Path("results/bakeoff")
SIZES, JUDGES, TARGET = (2500, 500), 3000, 0
TOLERANCE, BEARABLE = 0.05, 0.08
GRID = tuple(round(0.1 + 0.03 * i, 2) for i in range(11))  # t of the path
NEAR = GRID[:7]  # shown in tables
STRAIGHT, STRETCH = "path, to averaged repairs", (0.6, 0.7, 0.8, 0.9, 1.0)  # and the t on it
STRONGEST = ("fine-tune", "FT-SAM", "I-BAU", "NAD")
CAPPED = f"path, t up to {FAR:g}"  # as `repair` does by default
SHARES = (0.1, 0.2, 0.4)  # of the budget: how few steps repair
PLAN = 2  # raised when `plan` gets another row: finished jobs are gone through again for it
Rows = Any  # JSON


@dataclass(frozen=True)
class Sent:
    """What the defender receives, and how its attacker is judged. Some attackers send a second network along."""

    network: nn.Module
    trigger: Trigger
    target: Target
    other: nn.Module | None = None


Attacker = Callable[[Data, Scale, int], Sent]


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def poisoned(trigger: Callable[[Scale], Trigger], rate: float, target: Target = TARGET, **how: Any) -> Attacker:
    """The attacker who changes a share of the training set and trains as usual."""

    def attack(train: Data, scale: Scale, seed: int) -> Sent:
        carried = trigger(scale)
        bad = poison(train, carried, rate=rate, target=target, generator=drawn(seed), **how)
        return Sent(scale.trained(bad, seed), carried, target)

    return attack


def patch(scale: Scale) -> Trigger:
    return Patch(size=scale.patch)


def made_hard(train: Data, scale: Scale, seed: int) -> Sent:
    """Label-consistent: images of the target class made hard for a clean network, then the patch; labels stay."""
    carried, hard = patch(scale), PGD(Linf(16 / 255), steps=10)
    clean = scale.trained(train, seed)
    bad = label_consistent(train, clean, carried, target=TARGET, rate=0.8, attack=hard, generator=drawn(seed))
    return Sent(scale.trained(bad, seed), carried, TARGET)


def input_aware(train: Data, scale: Scale, seed: int) -> Sent:
    network, trigger = InputAware({**scale.training(), "seed": seed, "lr": 0.1})(scale.fresh(seed), train, TARGET)
    return Sent(network, trigger, TARGET)


# ---- attackers who know of the defense


def hardened(train: Data, scale: Scale, seed: int) -> Sent:
    """The attacker who makes the backdoor bear changes of the weights: a short second training on clean images."""
    sent = ATTACKS["BadNets"](train, scale, seed)
    options: Training = {**scale.training(), "steps": scale.steps // 5, "lr": 0.02, "seed": seed}
    fit(sent.network, train, Hardened(sent.trigger, TARGET, train.num_classes), **options)
    return sent


def knows_permutations(train: Data, scale: Scale, seed: int) -> Sent:
    """The attacker who knows that the curve leads to a permuted copy, and not to which: a fresh draw at every step."""
    net, carried = scale.fresh(seed), patch(scale)
    groups = permutation_groups(net, train.floats()[:2])
    bad = poison(train, carried, rate=0.1, target=TARGET, generator=drawn(seed))

    def another(weights: Params) -> Params:
        return permuted_weights(weights, groups, random_permutations(groups, torch.default_generator))

    fit(net, bad, PermutationAware(another), **{**scale.training(), "seed": seed})
    return Sent(net, carried, TARGET)


def knows_paths(train: Data, scale: Scale, seed: int) -> Sent:
    """The attacker who sends two networks, trained together with the path between them (Zhao et al., appendix J)."""
    carried = patch(scale)
    bad = poison(train, carried, rate=0.1, target=TARGET, generator=drawn(seed))
    ends = [scale.trained(bad, seed + 1000 * i) for i in range(2)]
    first, second = path_aware(*ends, bad, {**scale.training(), "lr": 0.1, "seed": seed})
    return Sent(first, carried, TARGET, second)


ADAPTIVE: dict[str, Attacker] = {
    "hardened": hardened,
    "knows permutations": knows_permutations,
    "knows paths": knows_paths,
}
ATTACKS: dict[str, Attacker] = {
    "BadNets": poisoned(patch, 0.1),
    "Blended": poisoned(lambda scale: Blend(), 0.1),
    "SIG": poisoned(lambda scale: Sinusoid(), 0.8, clean_label=True),
    "low frequency": poisoned(lambda scale: LowFrequency(), 0.1),
    "input-aware": input_aware,
    "BadNets, all-to-all": poisoned(patch, 0.1, "all"),
    "WaNet": poisoned(lambda scale: Warp(), 0.1, cover=0.2, cover_trigger=Warp(noise=1.0)),
    "label-consistent": made_hard,
    "BadNets, 1 %": poisoned(patch, 0.01),
    "Blended, 1 %": poisoned(lambda scale: Blend(), 0.01),
    "BadNets, 5 %": poisoned(patch, 0.05),
    "BadNets, 0.5 %": poisoned(patch, 0.005),
    **ADAPTIVE,
}


def families(scale: Scale, seed: int) -> dict[str, tuple[Callable[[Any, int], Defense], Sequence[Any]]]:
    """The rivals: how each is made of a setting and a budget, and the settings it tries, weakest first."""

    def spent(lr: float, gradients: int) -> Training:
        return {"steps": gradients, "lr": lr, "weight_decay": 1e-4, "augment": scale.augment, "seed": seed}

    return {
        "fine-tune": (lambda lr, g: FineTune(spent(lr, g)), (0.02, 0.05, 0.1)),
        "FT-SAM": (lambda rho, g: FTSAM(spent(0.05, g), rho=rho), (1.0, 2.0, 4.0)),
        "fine-prune": (lambda share, g: FinePrune(spent(0.02, g), share, by="dormancy"), (0.3, 0.6, 0.9)),
        "NAD": (lambda lr, g: NAD(spent(lr, g)), (0.02, 0.05, 0.1)),
        "I-BAU": (lambda lr, g: IBAU(spent(lr, g)), (0.001, 0.003, 0.01)),
        "TSC": (lambda t, g: TSC(spent(0.02, g), t), (0.4,)),
        "ANP": (lambda tolerance, g: ANP(spent(0.2, g), tolerance=tolerance), (TOLERANCE,)),
        "CLP": (lambda u, g: CLP(u), (5.0, 4.0, 3.0)),
        "noise": (lambda lr, g: GaussianNoise(FineTune(spent(lr, g)), "around"), (0.05,)),
        "from scratch": (lambda lr, g: FromScratch(spent(lr, g)), (0.1,)),
    }


def stand_ins(tampered: nn.Module, fitted: Data, held_out: Data) -> dict[str, Metric]:
    """What a defender can watch along the path beside accuracy, at a price that fits this table."""
    found: dict[str, Metric] = {"agreement": Agreement(tampered, held_out)}
    for kind in KINDS:
        triggers = invert(tampered, fitted, kind=kind, steps=60, starts=1, targets=[*range(fitted.num_classes), "any"])
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

    def parts(self) -> tuple[Data, Data]:
        """Return the samples that train and those held out: the split that `repair` makes."""
        return hold_out(self.bonafide, 0.2, self.seed)

    def row(self, net: nn.Module, **more: Any) -> dict[str, Any]:
        """Return what the defender and the judges measure on one network."""
        metrics = {BONAFIDE: Accuracy(self.parts()[1]), **self.judges}
        return {**more, **{name: as_record(value) for name, value in measure(net, metrics).items()}}

    def rival(self, name: str) -> list[dict[str, Any]]:
        """Return a row for every setting of a rival; a refusal is a row too."""
        make, settings = families(self.scale, self.seed)[name]
        return [self.tried(make(setting, self.scale.gradients // len(settings)), setting) for setting in settings]

    def tried(self, defense: Defense, setting: Any) -> dict[str, Any]:
        """Return the row of one setting."""
        began = time.perf_counter()
        try:
            net = defense(self.sent.network, self.parts()[0])
        except BadInput as error:
            return {"setting": setting, "refused": str(error)}
        return self.row(net, setting=setting, seconds=time.perf_counter() - began)

    def path(
        self,
        gradients: int,
        *,
        watch: bool = False,
        other: nn.Module | Defense | None = None,
        bends: int = 1,
        points: Sequence[float] = GRID,
    ) -> dict[str, Any]:
        """Return the path: what the defender sees, and what the judges say, at every t."""
        began, (fitted, _) = time.perf_counter(), self.parts()
        options: Training = {"steps": gradients // 2, "augment": self.scale.augment, "seed": self.seed}
        found = repair(self.sent.network, self.bonafide, other, points=points, rule=fixed(points[-1]), bends=bends,
                       watch=stand_ins if watch else None, **options)  # fmt: skip
        seconds = time.perf_counter() - began
        judged = evaluate_path(found.curve, self.judges, found.path.t, recalibrate_on=fitted)
        return {"seconds": seconds, "seen": found.path.record(), "judged": judged.record()}

    def straight(self) -> dict[str, Any]:
        """Return the path that `repair` takes with few samples: straight to the mean of two repairs."""
        end = averaged_repairs(steps=self.scale.gradients // 2, augment=self.scale.augment, seed=self.seed)
        return self.path(0, other=end, bends=0, points=STRETCH)


def plan(bench: Bench) -> dict[str, Callable[[], Any]]:
    """What is run for one network and one number of samples: with the few, the strongest rivals alone."""
    names, most = list(families(bench.scale, bench.seed)), len(bench.bonafide) == max(SIZES)
    made: dict[str, Callable[[], Any]] = {"as received": lambda: bench.row(bench.sent.network)}
    made["path"] = partial(bench.path, bench.scale.gradients, watch=most)
    if not most:  # with many samples the curve alone is ahead of it: docs/experiments.md
        made[STRAIGHT] = bench.straight
    if bench.sent.other is not None:
        made["path, to the second network"] = partial(bench.path, bench.scale.gradients, other=bench.sent.other)
    made |= {name: partial(bench.rival, name) for name in (names if most else STRONGEST)}
    for share in SHARES if most and bench.seed == 0 else ():
        gradients = int(share * bench.scale.gradients)
        made[f"path, {share:g} of the budget"] = partial(bench.path, gradients)
    return made


def slug(attack: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in attack.lower())


def pools(train: Data, seed: int) -> tuple[Data, Data]:
    """Return the bonafide samples and the attacker's, disjoint."""
    bonafide, theirs = split(train, [max(SIZES), len(train) - max(SIZES)], drawn(seed))
    return bonafide, theirs


def staged(attack: str, seed: int, scale: Scale, sets: Sets) -> tuple[Bench, dict[str, Any]]:
    """Attack a network; return it with all bonafide samples and its judges, and what a record says first."""
    bonafide, theirs = pools(sets.train, seed)
    (judged,) = split(sets.test, [JUDGES], drawn(seed))
    sent = ATTACKS[attack](theirs, scale, seed)
    judges: dict[str, Metric] = {
        "accuracy": Accuracy(judged),
        "attack success": AttackSuccess(judged, sent.trigger, sent.target),
    }
    record = {
        "attack": attack,
        "seed": seed,
        "network": sha256_of(*sent.network.state_dict().values()),
        "provenance": provenance(seed, {"bonafide": bonafide, "judged": judged, "attacker's": theirs}),
        "as received": {name: as_record(value) for name, value in measure(sent.network, judges).items()},
    }
    return Bench(sent, scale, seed, bonafide, judged, judges), record


def job(attack: str, seed: int, args: argparse.Namespace, sets: Sets) -> None:
    """Attack a network, and repair it by every defense at every number of bonafide samples.

    An interrupted job attacks anew, which gives the same network on the same machine; on another one it starts over.
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
            if name not in rows and (not args.defenses or name in args.defenses):
                rows[name] = made()
                write_json(file, record)
    if not (args.sizes or args.defenses):
        record["plan"] = PLAN
    write_json(file, {**record, "seconds": record.get("seconds", 0.0) + time.perf_counter() - began})


def finished(record: Rows, args: argparse.Namespace) -> bool:
    """Whether a record holds all that was asked for; a part is named by its defenses."""
    if args.defenses:
        sizes = [record.get("sizes", {}).get(str(n), {}) for n in args.sizes or SIZES]
        return "refused" in record or all(name in rows for rows in sizes for name in args.defenses)
    return "refused" in record or (record.get("plan") == PLAN and not args.sizes)


# ---- the tables


def tried(rows: Rows, name: str) -> Rows:
    """Return what a family made, weakest first: its settings, or the points of a path."""
    if "judged" not in rows[name]:
        return [row for row in rows[name] if "refused" not in row]
    path, last = rows[name], name == STRAIGHT  # the other paths end in a network with the backdoor
    seen, judged = (path[part]["values"] for part in ("seen", "judged"))
    return [
        {"setting": t, BONAFIDE: seen[BONAFIDE][i], **{metric: values[i] for metric, values in judged.items()}}
        for i, t in enumerate(path["seen"]["t"])
        if 0 < t < 1 or (last and t == 1)
    ]


def at(path: Rows, t: float) -> dict[str, Any]:
    """Return what the judges say at one t."""
    return {name: values[path["judged"]["t"].index(t)] for name, values in path["judged"]["values"].items()}


def with_capped(rows: Rows) -> Rows:
    """Return the rows of a network with those of its path up to the t that `repair` would not pass."""
    if "path" not in rows:
        return rows
    seen = rows["path"]["seen"]
    return {CAPPED: {**rows["path"], "seen": {**seen, "t": [t for t in seen["t"] if t <= FAR]}}, **rows}


def within(before: float, after: float) -> bool:
    """Whether a defender's figure for accuracy has fallen by five points or less."""
    return before - after <= TOLERANCE


def bearable(before: float, after: float) -> bool:
    """Whether the defender's samples leave it open that accuracy has fallen by eight points or less."""
    return least_drop(before, after) <= BEARABLE


RULES: dict[str, Callable[[float, float], bool]] = {
    "the strongest setting within five points of held-out accuracy": within,
    "the strongest setting that held-out samples do not show to cost more than eight points": bearable,
}


def chosen(rows: Rows, name: str, allowed: Callable[[float, float], bool] = bearable) -> dict[str, Any] | None:
    """Return the strongest of the allowed settings, else the most accurate: one rule for all."""
    found = tried(rows, name)
    before = from_record(rows["as received"][BONAFIDE])
    left = [row for row in found if allowed(before, from_record(row[BONAFIDE]))]
    return (left or sorted(found, key=lambda row: row[BONAFIDE]["value"]) or [None])[-1]


def least_success(rows: Rows, name: str, points: float) -> float | None:
    """Return the lowest attack success of any setting within so many points of the received accuracy: an oracle."""
    enough = rows["as received"]["accuracy"]["value"] - points / 100
    found = [row["attack success"]["value"] for row in tried(rows, name) if row["accuracy"]["value"] >= enough]
    return min(found, default=None)


def der(before: dict[str, Any], row: dict[str, Any]) -> float:
    """Defense effectiveness rating, a share (Zhu et al., ICCV 2023)."""
    fell = {name: before[name]["value"] - row[name]["value"] for name in ("accuracy", "attack success")}
    return (max(0.0, fell["attack success"]) - max(0.0, fell["accuracy"]) + 1) / 2


def interval(values: Sequence[float]) -> str:
    """Return mean and 95 % interval over networks (Student's t), of figures in percent."""
    if len(values) < 2:
        return f"{mean(values):.1f}"
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.1f} ± {half:.1f}"


def by_rule(jobs: Rows, n: str, allowed: Callable[[float, float], bool]) -> list[str]:
    """The choices that a defender can make."""
    lines = [
        "| defense | networks | accuracy | ASR, mean | ASR, worst | DER | seconds, median |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names_in(jobs, n):
        all_rows = having(jobs, n, name)
        pairs = [(rows["as received"], found) for rows in all_rows if (found := chosen(rows, name, allowed))]
        if not pairs:
            continue
        figures = [[100 * row[metric]["value"] for _, row in pairs] for metric in ("accuracy", "attack success")]
        rating = [100 * der(*pair) for pair in pairs]
        seconds = median(spent(rows[name]) for rows in all_rows)
        lines.append(f"| {name} | {len(pairs)} | {interval(figures[0])} | {interval(figures[1])} | "
                     f"{max(figures[1]):.1f} | {interval(rating)} | {seconds:.0f} |")  # fmt: skip
    return lines


def spent(found: Any) -> float:
    rows = [found] if isinstance(found, dict) else found
    return sum(float(row.get("seconds", 0.0)) for row in rows)


def frontier(jobs: Rows, n: str) -> list[str]:
    """What the best setting could do, by how much accuracy it may cost: an oracle, kept apart."""
    budgets = (2, 3, 4, 5, 7)
    lines = ["| defense | " + " | ".join(f"within {points} points" for points in budgets) + " |",
             "|---|" + "---|" * len(budgets)]  # fmt: skip
    for name in names_in(jobs, n):
        cells, rows = [], having(jobs, n, name)
        for points in budgets:
            # where no setting keeps so much accuracy, the backdoor stays as it was received
            got = [
                100
                * (
                    each
                    if (each := least_success(r, name, points)) is not None
                    else r["as received"]["attack success"]["value"]
                )
                for r in rows
            ]
            cells.append(f"{mean(got):.1f} (worst {max(got):.1f})" if got else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def names_in(jobs: Rows, n: str) -> list[str]:
    names = dict.fromkeys(name for job in jobs for name in job["sizes"].get(n, {}) if name != "as received")
    return [name for name in names if "budget" not in name]


def having(jobs: Rows, n: str, name: str) -> Rows:
    """Return the rows of the jobs that ran a defense."""
    return [job["sizes"][n] for job in jobs if name in job["sizes"].get(n, {})]


def table(scale: str) -> str:
    """Every defense over all attacked networks, by number of bonafide samples."""
    jobs = [read_json(file) for file in sorted((RESULTS / scale).glob("*.json"))]
    for job in jobs:
        job["sizes"] = {n: with_capped(rows) for n, rows in job["sizes"].items()}
    done, weak = [job for job in jobs if "refused" not in job], [job for job in jobs if "refused" in job]
    lines = [f"## Scale: {scale}", "", f"{len(done)} attacked networks; {SCALES[scale].gradients} gradient evaluations "
             "for each defense, its tries included.", ""]  # fmt: skip
    lines += [f"Left out: {job['attack']}, seed {job['seed']}: {job['refused']}." for job in weak]
    lines += ["", "| attack | seed | as received: accuracy / ASR |", "|---|---|---|"]
    for job in done:
        accuracy, success = (100 * job["as received"][name]["value"] for name in ("accuracy", "attack success"))
        lines.append(f"| {job['attack']} | {job['seed']} | {accuracy:.1f} / {success:.1f} |")
    judged = [job for job in done if job["attack"] not in ADAPTIVE]
    for n in map(str, SIZES):
        for rule, allowed in RULES.items():
            lines += ["", f"### n = {n}: {rule}", "", *by_rule(judged, n, allowed)]
        lines += ["", f"### n = {n}: frontier (oracle): least ASR by accuracy given up", "", *frontier(judged, n)]
        lines += ["", f"### n = {n}: setting by setting, accuracy / ASR (worst)", "", *by_setting(judged, n)]
    return "\n".join([*lines, *fewer_gradients(judged), *attackers_who_know(done), *one_by_one(judged)])


def averaged(rows: Rows) -> str:
    """Return mean accuracy / mean attack success (worst) of one setting over networks, in percent."""
    accuracy, success = ([100 * row[metric]["value"] for row in rows] for metric in ("accuracy", "attack success"))
    return f"{mean(accuracy):.1f} / {mean(success):.1f} ({max(success):.1f})"


def by_setting(jobs: Rows, n: str) -> list[str]:
    """The paths, one of them at the nearer t, and every setting of the strongest rivals."""
    lines = ["| defense | setting | networks | accuracy / ASR (worst) |", "|---|---|---|---|"]
    for name in ("path", STRAIGHT, *STRONGEST):
        groups: dict[float, Rows] = {}
        for rows in having(jobs, n, name):
            for row in tried(rows, name):
                groups.setdefault(row["setting"], []).append(row)
        for setting, found in groups.items():
            if name != "path" or setting in NEAR:
                lines.append(f"| {name} | {setting:g} | {len(found)} | {averaged(found)} |")
    return lines


def fewer_gradients(jobs: Rows) -> list[str]:
    """The path with a part of the budget: how few gradient evaluations repair."""
    n = str(max(SIZES))
    names = [*(f"path, {share:g} of the budget" for share in SHARES), "path"]
    jobs = [job for job in jobs if all(name in job["sizes"].get(n, {}) for name in names)]
    lines = ["", f"### Fewer gradients, n = {n}, {len(jobs)} networks: accuracy / ASR (worst)", "",
             "| share | " + " | ".join(f"t = {t:g}" for t in NEAR) + " |", "|---|" + "---|" * len(NEAR)]  # fmt: skip
    for share, name in zip((*SHARES, 1), names, strict=True):
        points = [[row for job in jobs for row in tried(job["sizes"][n], name) if row["setting"] == t] for t in NEAR]
        lines.append(f"| {share:g} | " + " | ".join(map(averaged, points)) + " |")
    return lines


def attackers_who_know(jobs: Rows) -> list[str]:
    """What survives of the backdoors of those who know of the defense: accuracy / ASR, chosen by the second rule."""
    lines = ["", f"### Attackers who know of the defense, n = {max(SIZES)}", ""]
    return lines + cells([job for job in jobs if job["attack"] in ADAPTIVE])


def one_by_one(jobs: Rows) -> list[str]:
    """Every attack on its own: accuracy / ASR, chosen by the second rule."""
    return ["", f"### One by one, n = {max(SIZES)}: by the second rule, accuracy / ASR", "", *cells(jobs)]


def cells(jobs: Rows) -> list[str]:
    """One column for each attacked network."""
    n = str(max(SIZES))
    lines = ["| defense | " + " | ".join(f"{job['attack']}, {job['seed']}" for job in jobs) + " |"]
    lines += ["|---|" + "---|" * len(jobs)]
    for name in names_in(jobs, n):
        made = [job["sizes"].get(n, {}) for job in jobs]
        found = [chosen(rows, name) if having([job], n, name) else None for job, rows in zip(jobs, made, strict=True)]
        shown = [" / ".join(f"{100 * row[m]['value']:.1f}" for m in ("accuracy", "attack success")) if row else ""
                 for row in found]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines


def main() -> None:
    options = parser(__doc__, "run", "table")
    options.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=list(ATTACKS))
    options.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    options.add_argument("--sizes", type=int, nargs="+", help=f"numbers of samples, at most {max(SIZES)}")
    options.add_argument("--defenses", nargs="+", help="rows of the table, 'as received' among them")
    args = parsed(options, table)
    sets = Sets(args)
    for seed in args.seeds:
        for attack in args.attacks:
            job(attack, seed, args, sets)


if __name__ == "__main__":
    main()

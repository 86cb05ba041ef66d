"""Table: how often `inspect` calls clean networks suspicious, and how often backdoored ones, by
attack.

    python experiments/inspection.py run --scale digits             one result file per network
    python experiments/inspection.py run --scale small --data DIR   the same on CIFAR-10
    python experiments/inspection.py references --scale digits
        isthmus/defenses/inspection/references.json, from the clean networks
    python experiments/inspection.py table --scale digits           the tables of docs/inspection.md

Each network is trained and then searched with bonafide samples of its own from the test split, and
judged on the rest. The first --references clean networks are references alone; the others are
judged as the backdoored ones are. Whatever is done already is not done again, and --attacks,
--seeds and --clean share the work among processes.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, quantiles
from types import SimpleNamespace
from typing import Any

import torch
from attackers import Attacker, drawn, patch, poisoned
from command import Sets, parser, slug
from scale import SCALES

from isthmus import split
from isthmus.attacks import Blend, LowFrequency
from isthmus.defenses import (
    References,
    anomaly_index,
    collected,
    inspect,
    p_value,
    write_references,
)
from isthmus.defenses.inspection.references import oddest
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, AttackSuccess, Rate, Target, as_records, measure
from isthmus.runs import percent, read_json, write_json
from isthmus.types import Metric

Rows = list[dict[str, Any]]
RESULTS = Path("results/inspection")
PACKAGED = Path("isthmus/defenses/inspection/references.json")
LEVEL, CLASSES, SAMPLES = 0.05, 10, 250


@dataclass(frozen=True)
class Plan:
    """Which networks a scale has, how many clean ones, how many of these are references, and how
    many of an attack.

    `steps` of training are the scale's where nothing is said.
    """

    networks: str
    clean: int
    references: int
    attacked: int
    steps: int | None = None


PLANS = {
    "digits": Plan("small_cnn of width 8 on digits", 119, 59, 12),
    "small": Plan(
        "preact_resnet of depth 8 on CIFAR-10 at 16x16, 3 epochs", 29, 19, 3, steps=391 * 3
    ),
}


def attackers(target: Target) -> dict[str, Attacker]:
    """Who attacks, by name. `target` is another class for every seed, for some classes have small
    triggers anyway.
    """
    return {
        "patch 10 %": poisoned(patch, 0.1, target),
        "patch 1 %": poisoned(patch, 0.01, target),
        "blend 10 %": poisoned(lambda scale: Blend(), 0.1, target),
        "low frequency 10 %": poisoned(lambda scale: LowFrequency(), 0.1, target),
        "all-to-all 10 %": poisoned(patch, 0.1, "all"),
    }


def job(attack: str, seed: int, args: argparse.Namespace, sets: Sets) -> None:
    """Train one network, inspect it without references, and write what was found."""
    file = RESULTS / args.scale / f"{slug(attack)}-{seed}.json"
    if file.exists():
        return
    began, plan, scale = time.process_time(), PLANS[args.scale], SCALES[args.scale]
    scale = replace(scale, steps=plan.steps or scale.steps)
    bonafide, rest = split(sets.test, [SAMPLES, len(sets.test) - SAMPLES], drawn(seed))
    judged_by: dict[str, Metric] = {"accuracy": Accuracy(rest)}
    target: Target | None = None
    if attack == "clean":
        net = scale.trained(sets.train, seed)
    else:
        sent = attackers(seed % CLASSES)[attack](sets.train, scale, seed)
        net, target = sent.network, sent.target
        judged_by["attack success"] = AttackSuccess(rest, sent.trigger, target)
    trained = time.process_time()
    found = inspect(net, bonafide, steps=args.steps, batch_size=args.batch, seed=seed)
    record = {
        "attack": attack,
        "seed": seed,
        "target": target,
        "network": plan.networks,
        "settings": dict(found.settings),
        "statistics": dict(found.statistics),
        "found": [each.record() for each in found.found],
        "cpu seconds": {"training": trained - began, "inspection": time.process_time() - trained},
        "provenance": provenance(seed, {"bonafide": bonafide, "judged": rest}).record(),
        **as_records(measure(net, judged_by)),
    }
    write_json(file, record)


def results(scale: str) -> Rows:
    """All networks that were inspected."""
    rows = map(read_json, (RESULTS / scale).glob("*.json"))
    return sorted(rows, key=lambda row: (row["attack"], row["seed"]))


def made_references(rows: Rows, count: int) -> References:
    """The references that the clean networks of the first seeds give."""
    clean = [row for row in rows if row["attack"] == "clean" and row["seed"] < count]
    return collected(clean, clean[0]["network"])


def sizes(row: dict[str, Any], kind: str) -> list[float]:
    return [e["size"] for e in row["found"] if e["kind"] == kind and e["target"] != "any"]


Test = Callable[[dict[str, Any]], bool]


def tests(known: References) -> dict[str, Test]:
    """The ways to call a network suspicious that are compared; the last one is what `inspect`
    does.
    """

    def only(*names: str) -> Test:
        part = References(
            known.networks, known.settings, {name: known.values[name] for name in names}
        )
        return lambda row: p_value({name: row["statistics"][name] for name in names}, part) <= LEVEL

    return {
        "Neural Cleanse: index > 2": lambda row: max(anomaly_index(sizes(row, "patch"))) > 2,
        "the same on log size": lambda row: (
            max(anomaly_index([math.log(s) for s in sizes(row, "patch")])) > 2
        ),
        **{f"p, {name}": only(name) for name in known.values},
        "p, patch and perturbation": only("patch", "perturbation"),
        "p, all together": only(*known.values),
    }


def suspect(row: dict[str, Any], known: References) -> Any:
    """Where the oddest trigger leads, as `inspect` says."""
    found: list[Any] = [SimpleNamespace(**each) for each in row["found"]]
    return oddest(found, row["statistics"], known).target


def cell(rate: Rate) -> str:
    return f"{rate.hits}/{rate.n} [{percent(rate.low)}, {percent(rate.high)}]"


def false_alarms(rows: Rows, count: int, splits: int = 200) -> str:
    """How often clean networks are suspicious when other ones of them are the references: what one
    split cannot say.
    """
    clean = [row for row in rows if row["attack"] == "clean"]
    shares = []
    for seed in range(splits):
        order = torch.randperm(len(clean), generator=drawn(seed)).tolist()
        known = collected([clean[i] for i in order[:count]], "clean")
        shares.append(mean(p_value(clean[i]["statistics"], known) <= LEVEL for i in order[count:]))
    low, high = quantiles(shares, n=20)[0], quantiles(shares, n=20)[-1]
    return (
        f"Over {splits} random choices of the {count} references among all {len(clean)} clean "
        "networks, "
        f"{percent(mean(shares))} of the others are suspicious ({percent(low)} to "
        f"{percent(high)} in nine of ten)."
    )


def table(rows: Rows, count: int) -> str:
    """Share of networks called suspicious, by attack and test; and how well each attack works."""
    known = made_references(rows, count)
    judged = [row for row in rows if row["attack"] != "clean" or row["seed"] >= count]
    names = list(dict.fromkeys(["clean", *(row["attack"] for row in judged)]))
    groups = {name: [row for row in judged if row["attack"] == name] for name in names}
    lines = [
        f"References: {len(known)} clean networks ({known.networks}). Level {percent(LEVEL)}.",
        "",
    ]
    lines += ["| | " + " | ".join(groups) + " |", "|---|" + "---|" * len(groups)]
    for name, test in tests(known).items():
        cells = [cell(Rate(sum(map(test, group)), len(group))) for group in groups.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    named = [
        cell(Rate(sum(suspect(row, known) == row["target"] for row in group), len(group)))
        if isinstance(group[0]["target"], int)
        else ""
        for group in groups.values()
    ]
    lines += ["| the suspect is the target | " + " | ".join(named) + " |", ""]
    lines += [
        "| | accuracy | attack success | CPU seconds, training and inspection |",
        "|---|---|---|---|",
    ]
    for name, group in groups.items():
        shown = [
            spread([row[key]["value"] for row in group]) if key in group[0] else ""
            for key in ("accuracy", "attack success")
        ]
        spent = [
            sum(row["cpu seconds"][key] for row in group) / len(group)
            for key in ("training", "inspection")
        ]
        lines.append(f"| {name} | {shown[0]} | {shown[1]} | {spent[0]:.1f} + {spent[1]:.1f} |")
    return "\n".join([*lines, "", false_alarms(rows, count)])


def spread(values: list[float]) -> str:
    return f"{percent(sum(values) / len(values))} [{percent(min(values))}, {percent(max(values))}]"


def main() -> None:
    options = parser(__doc__, "run", "references", "table")
    options.add_argument("--steps", type=int, default=120, help="of the search")
    options.add_argument("--batch", type=int, default=16, help="of the search")
    names = ["clean", *attackers(0)]
    options.add_argument("--attacks", nargs="+", default=names, choices=names)
    options.add_argument("--seeds", type=int, nargs="+", help="of the backdoored networks")
    options.add_argument("--clean", type=int, nargs="+", help="seeds of the clean networks")
    options.add_argument(
        "--references", type=int, help="clean networks of lower seeds are references"
    )
    args = options.parse_args()
    if args.scale not in PLANS:
        options.error(f"--scale {args.scale} has no plan: choose one of {', '.join(PLANS)}")
    plan = PLANS[args.scale]
    count = args.references or plan.references
    if args.what == "run":
        sets = Sets(args)
        for attack in args.attacks:
            asked, planned = (
                (args.clean, plan.clean) if attack == "clean" else (args.seeds, plan.attacked)
            )
            for seed in range(planned) if asked is None else asked:
                job(attack, seed, args, sets)
    elif args.what == "references":
        write_references(PACKAGED, made_references(results(args.scale), count))
    else:
        print(table(results(args.scale), count))


if __name__ == "__main__":
    main()

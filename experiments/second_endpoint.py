"""Table: which second endpoint a curve from one checkpoint should lead to (specification, section 12).

    python experiments/second_endpoint.py run --data DIR --scale small [--attacks NAME ...]
    python experiments/second_endpoint.py table --scale small          docs/results/second_endpoint.md

Attacked networks, samples and judges are those of `bakeoff.py`; every endpoint has the same gradient evaluations in
all, those that make it included. Whatever is done already is not done again.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import mean
from typing import Any

from bakeoff import ATTACKS, GRID, JUDGES, SIZES, Sent, drawn, slug
from command import Sets, parser
from scale import SCALES, Scale
from torch import nn

from isthmus import Data, repair, split
from isthmus.defenses import FTSAM, FineTune
from isthmus.endpoints import PermutedCopy, PerturbedCopy
from isthmus.files import read_json, write_json
from isthmus.metrics import Accuracy, AttackSuccess, as_record, measure
from isthmus.path import evaluate_path
from isthmus.provenance import provenance
from isthmus.select import fixed
from isthmus.train import Training
from isthmus.types import Defense, Metric

RESULTS, TRIED = Path("results/second_endpoint"), ("BadNets, 1 %", "Blended, 1 %", "BadNets")
SHOWN = (0.1, 0.13, 0.16, 0.19, 0.22, 0.28, 0.4)
SHARE = 1 / 3  # of the gradients, for an endpoint that is trained


def endpoints(scale: Scale, seed: int) -> dict[str, Defense]:
    """Return the ways to make a second endpoint of the first."""
    steps = int(SHARE * scale.gradients)
    training: Training = {"steps": steps, "lr": 0.05, "weight_decay": 1e-4, "augment": scale.augment, "seed": seed}
    return {
        "permuted copy, random": PermutedCopy("random", seed),
        "permuted copy, least correlated": PermutedCopy(),
        "perturbed copy, scale 0.5": PerturbedCopy(0.5, seed),
        "perturbed copy, scale 1": PerturbedCopy(1.0, seed),
        "fine-tuned copy": FineTune(training),
        "fine-tuned copy, sharpness-aware": FTSAM(training, rho=2.0),
    }


def walked(sent: Sent, pool: Data, other: nn.Module | Defense, judges: dict[str, Metric], scale: Scale, seed: int,
           gradients: int) -> dict[str, Any]:  # fmt: skip
    """Return what the judges say along the path to an endpoint."""
    began = time.perf_counter()
    options: Training = {"steps": gradients // 2, "augment": scale.augment, "seed": seed}
    found = repair(sent.network, pool, other, points=GRID, rule=fixed(0.2), **options)
    seconds = time.perf_counter() - began
    path = evaluate_path(found.curve, judges, found.path.t, recalibrate_on=found.fitted)
    return {"seconds": seconds, "path": path.record()}


def job(attack: str, seed: int, name: str, sets: Sets) -> None:
    """Attack a network and lead a curve from it to every endpoint; an interrupted job attacks anew."""
    file, scale = RESULTS / name / f"{slug(attack)}-seed{seed}.json", SCALES[name]
    ways = endpoints(scale, seed)
    record: dict[str, Any] = read_json(file) if file.exists() else {"attack": attack, "seed": seed, "rows": {}}
    if {*ways, "another network"} <= {*record["rows"]}:
        return
    train = sets.train
    pool, theirs = split(train, [max(SIZES), len(train) - max(SIZES)], drawn(seed))
    (judged,) = split(sets.test, [JUDGES], drawn(seed))
    sent = ATTACKS[attack](theirs, scale, seed)
    judges: dict[str, Metric] = {
        "accuracy": Accuracy(judged),
        "attack success": AttackSuccess(judged, sent.trigger, sent.target),
    }
    record["provenance"] = provenance(seed, {"bonafide": pool, "judged": judged, "attacker's": theirs})
    record["as received"] = {metric: as_record(value) for metric, value in measure(sent.network, judges).items()}
    for way, make in ways.items():
        if way not in record["rows"]:
            left = scale.gradients - make.training["steps"] if isinstance(make, FineTune | FTSAM) else scale.gradients
            record["rows"][way] = walked(sent, pool, make, judges, scale, seed, left)
            write_json(file, record)
    # the one endpoint that a defender with one checkpoint has not: a second network of the same attacker
    another = ATTACKS[attack](theirs, scale, seed + 1000).network
    record["rows"]["another network"] = walked(sent, pool, another, judges, scale, seed, scale.gradients)
    write_json(file, record)


def table(name: str) -> str:
    jobs = [read_json(file) for file in sorted((RESULTS / name).glob("*.json"))]
    lines = [f"## Scale: {name}"]
    for job in jobs:
        received = " / ".join(f"{100 * job['as received'][m]['value']:.1f}" for m in ("accuracy", "attack success"))
        lines += ["", f"### {job['attack']}, seed {job['seed']}: received {received}", "", *header()]
        for way, row in job["rows"].items():
            lines.append(f"| {way} | " + " | ".join(cell([row], t) for t in SHOWN) + " |")
    lines += ["", f"### Mean over the {len(jobs)} networks", "", *header()]
    for way in jobs[0]["rows"]:
        rows = [job["rows"][way] for job in jobs if way in job["rows"]]
        lines.append(f"| {way} | " + " | ".join(cell(rows, t) for t in SHOWN) + " |")
    return "\n".join(lines)


def header() -> list[str]:
    return ["| second endpoint | " + " | ".join(f"t = {t:g}" for t in SHOWN) + " |", "|---|" + "---|" * len(SHOWN)]


def cell(rows: list[Any], t: float) -> str:
    """Return accuracy / attack success at one t, in percent: means over the rows."""
    found = [{metric: values[row["path"]["t"].index(t)]["value"] for metric, values in row["path"]["values"].items()}
             for row in rows]  # fmt: skip
    return " / ".join(f"{100 * mean(each[m] for each in found):.1f}" for m in ("accuracy", "attack success"))


def main() -> None:
    options = parser(__doc__, "run", "table")
    options.add_argument("--attacks", nargs="+", default=TRIED, choices=list(ATTACKS))
    options.add_argument("--seeds", type=int, nargs="+", default=(0,))
    args = options.parse_args()
    if args.what == "table":
        print(table(args.scale))
        return
    sets = Sets(args)
    for seed in args.seeds:
        for attack in args.attacks:
            job(attack, seed, args.scale, sets)


if __name__ == "__main__":
    main()

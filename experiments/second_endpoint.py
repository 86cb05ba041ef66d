"""Table: which second endpoint a curve from one checkpoint should lead to.

    python experiments/second_endpoint.py run --data DIR --scale small [--attacks NAME ...]
    python experiments/second_endpoint.py table --scale small  docs/results/second_endpoint.md

Attacked networks, samples and judges are those of `bakeoff.py`; every endpoint has the same
gradient evaluations in all, those that make it included. Whatever is done already is not done
again.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from attackers import ATTACKS
from bakeoff import pools, staged
from bakeoff_tables import at
from command import Sets, parsed, parser, slug
from scale import SCALES, Scale

from isthmus.defenses import FTSAM, FineTune, PermutedCopy, PerturbedCopy
from isthmus.runs import read_json, write_json
from isthmus.training import Training
from isthmus.types import Defense

RESULTS, TRIED = Path("results/second_endpoint"), ("BadNets, 1 %", "Blended, 1 %", "BadNets")
SHOWN = (0.1, 0.13, 0.16, 0.19, 0.22, 0.28, 0.4)
ANOTHER = "another network"  # of the same attacker: what a defender with one checkpoint has not
SHARE = 1 / 3  # of the gradients, for an endpoint that is trained


def endpoints(scale: Scale, seed: int) -> dict[str, tuple[Defense, int]]:
    """Return the ways to make a second endpoint of the first, and what each leaves of the
    gradients.
    """
    steps = int(SHARE * scale.gradients)
    training = Training(steps=steps, lr=0.05, weight_decay=1e-4, augment=scale.augment, seed=seed)
    return {
        "permuted copy, random": (PermutedCopy("random", seed), scale.gradients),
        "permuted copy, least correlated": (PermutedCopy(), scale.gradients),
        "perturbed copy, scale 0.5": (PerturbedCopy(0.5, seed), scale.gradients),
        "perturbed copy, scale 1": (PerturbedCopy(1.0, seed), scale.gradients),
        "fine-tuned copy": (FineTune(training), scale.gradients - steps),
        "fine-tuned copy, sharpness-aware": (FTSAM(training, rho=2.0), scale.gradients - steps),
    }


def job(attack: str, seed: int, name: str, sets: Sets) -> None:
    """Attack a network and lead a curve from it to every endpoint; an interrupted job attacks
    anew.
    """
    file, scale = RESULTS / name / f"{slug(attack)}-seed{seed}.json", SCALES[name]
    ways = endpoints(scale, seed)
    record: dict[str, Any] = read_json(file) if file.exists() else {"rows": {}}
    if {*ways, ANOTHER} <= {*record["rows"]}:
        return
    bench, fresh = staged(attack, seed, scale, sets)
    record |= fresh
    for way, (make, left) in ways.items():
        if way not in record["rows"]:
            record["rows"][way] = bench.path(left, other=make)
            write_json(file, record)
    _, theirs = pools(sets.train, seed)
    second = ATTACKS[attack](theirs, scale, seed + 1000).network
    record["rows"][ANOTHER] = bench.path(scale.gradients, other=second)
    write_json(file, record)


def table(name: str) -> str:
    jobs = [read_json(file) for file in sorted((RESULTS / name).glob("*.json"))]
    lines = [f"## Scale: {name}"]
    for job in jobs:
        received = " / ".join(
            f"{100 * job['as received'][m]['value']:.1f}" for m in ("accuracy", "attack success")
        )
        lines += [
            "",
            f"### {job['attack']}, seed {job['seed']}: received {received}",
            "",
            *header(),
        ]
        for way, row in job["rows"].items():
            lines.append(f"| {way} | " + " | ".join(cell([row], t) for t in SHOWN) + " |")
    lines += ["", f"### Mean over the {len(jobs)} networks", "", *header()]
    for way in jobs[0]["rows"]:
        rows = [job["rows"][way] for job in jobs if way in job["rows"]]
        lines.append(f"| {way} | " + " | ".join(cell(rows, t) for t in SHOWN) + " |")
    return "\n".join(lines)


def header() -> list[str]:
    return [
        "| second endpoint | " + " | ".join(f"t = {t:g}" for t in SHOWN) + " |",
        "|---|" + "---|" * len(SHOWN),
    ]


def cell(rows: list[Any], t: float) -> str:
    """Return accuracy / attack success at one t, in percent: means over the rows."""
    found = [at(row, t) for row in rows]
    return " / ".join(
        f"{100 * mean(each[m]['value'] for each in found):.1f}"
        for m in ("accuracy", "attack success")
    )


def main() -> None:
    options = parser(__doc__, "run", "table")
    options.add_argument("--attacks", nargs="+", default=TRIED, choices=list(ATTACKS))
    options.add_argument("--seeds", type=int, nargs="+", default=(0,))
    args = parsed(options, table)
    sets = Sets(args)
    for seed in args.seeds:
        for attack in args.attacks:
            job(attack, seed, args.scale, sets)


if __name__ == "__main__":
    main()

"""Table: how often `inspect` calls clean networks suspicious, and how often backdoored ones, by attack.

    python experiments/inspection.py run                    one result file per network, on scikit-learn's digits
    python experiments/inspection.py run --data DIR --network preact_resnet20 --train-steps 6000 --steps 300 ...
    python experiments/inspection.py references             references.json, from the clean networks set apart for it
    python experiments/inspection.py table                  the tables of docs/inspection.md

DIR holds train.parquet and test.parquet in the Hugging Face layout. Each network is trained and then searched with
bonafide samples of its own from the test split, and judged on the rest. Clean networks of the first seeds are
references alone; the others are judged as the backdoored ones are. Whatever is done already is not done again, and
--attacks, --seeds and --clean share the work among processes.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from command import use_threads
from torch import nn

from isthmus import Augment, Blend, Data, Patch, fit, load_data, poison, split
from isthmus.files import read_json, write_json
from isthmus.inspection import References, anomaly_index, inspect, p_value
from isthmus.inversion import KINDS
from isthmus.metrics import Accuracy, AttackSuccess, Rate, as_record, as_records, measure
from isthmus.models import preact_resnet, small_cnn
from isthmus.provenance import provenance
from isthmus.train import one_cycle
from isthmus.triggers import Target
from isthmus.types import Trigger, percent

Rows = list[dict[str, Any]]
LEVEL, CLASSES = 0.05, 10
NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "small_cnn": lambda channels, width: small_cnn(CLASSES, channels, width),
    "preact_resnet20": lambda channels, width: preact_resnet(20),
}


def attacks(size: int) -> dict[str, tuple[Trigger, float, bool]]:
    """Trigger, poison rate, and whether every class is sent on; the single target is the seed's last digit."""
    patch = Patch(size=size)
    return {
        "patch 10 %": (patch, 0.1, False),
        "patch 1 %": (patch, 0.01, False),
        "blend 10 %": (Blend(0.2), 0.1, False),
        "all-to-all 10 %": (patch, 0.1, True),
    }


def load(data: str) -> tuple[Data, Data]:
    if data == "digits":
        return load_data("digits:train"), load_data("digits:test")
    return load_data(str(Path(data) / "train.parquet")), load_data(str(Path(data) / "test.parquet"))


def job(train: Data, test: Data, attack: str, seed: int, args: argparse.Namespace) -> None:
    """Train one network, inspect it without references, and write what was found."""
    file = args.results / f"{attack.replace(' ', '').replace('%', '')}-{seed}.json"
    if file.exists():
        return
    began = time.process_time()
    judged_by: dict[str, Accuracy | AttackSuccess] = {}
    bonafide, rest = split(test, [args.samples, len(test) - args.samples], torch.Generator().manual_seed(seed))
    judged_by["accuracy"] = Accuracy(rest)
    target: Target | None = None
    if attack != "clean":
        trigger, rate, every = attacks(args.patch)[attack]
        target = "all" if every else seed % CLASSES
        train = poison(train, trigger, rate=rate, target=target, generator=torch.Generator().manual_seed(seed))
        judged_by["attack success"] = AttackSuccess(rest, trigger, target)
    torch.manual_seed(seed)
    net = NETWORKS[args.network](train.x.shape[1], args.width)
    fit(net, train, steps=args.train_steps, lr=args.lr, batch_size=args.train_batch, weight_decay=5e-4,
        schedule=one_cycle, seed=seed, augment=None if args.data == "digits" else Augment(2),
        precision=args.precision)  # fmt: skip
    trained = time.process_time()
    found = inspect(net, bonafide, steps=args.steps, batch_size=args.batch, seed=seed, precision=args.precision)
    record = {
        "attack": attack, "seed": seed, "target": target, "network": f"{args.network}, width {args.width}",
        "settings": dict(found.settings), "statistics": dict(found.statistics),
        "found": [{"kind": e.kind, "target": e.target, "size": e.size, "score": e.score,
                   "success": as_record(e.success)} for e in found.found],
        "cpu seconds": {"training": trained - began, "inspection": time.process_time() - trained},
        "provenance": provenance(seed, {"bonafide": bonafide, "judged": rest}),
        **as_records(measure(net, judged_by)),
    }  # fmt: skip
    write_json(file, record)


def results(folder: Path) -> Rows:
    return sorted(map(read_json, folder.glob("*.json")), key=lambda row: (row["attack"], row["seed"]))


def made_references(rows: Rows, count: int) -> References:
    """The references that the clean networks of the first seeds give."""
    rows = [row for row in rows if row["attack"] == "clean" and row["seed"] < count]
    names = rows[0]["statistics"]
    values = {name: [row["statistics"][name] for row in rows] for name in names}
    return References(f"{rows[0]['network']}", rows[0]["settings"], values)


def sizes(row: dict[str, Any], kind: str) -> list[float]:
    return [e["size"] for e in row["found"] if e["kind"] == kind and e["target"] != "any"]


Test = Callable[[dict[str, Any]], bool]


def tests(known: References) -> dict[str, Test]:
    """The ways to call a network suspicious that are compared; the last one is what `inspect` does."""

    def only(*names: str) -> Test:
        part = References(known.networks, known.settings, {name: known.values[name] for name in names})
        return lambda row: p_value({name: row["statistics"][name] for name in names}, part) <= LEVEL

    return {
        "Neural Cleanse: index > 2": lambda row: max(anomaly_index(sizes(row, "patch"))) > 2,
        "the same on log size": lambda row: max(anomaly_index([math.log(s) for s in sizes(row, "patch")])) > 2,
        **{f"p, {name}": only(name) for name in known.values},
        "p, patch and perturbation": only("patch", "perturbation"),
        "p, all together": only(*known.values),
    }


def suspect(row: dict[str, Any]) -> Any:
    """The class whose trigger is the smallest against the median of its kind."""

    def lead(kind: str) -> tuple[float, Any]:
        scores = {e["target"]: e["score"] for e in row["found"] if e["kind"] == kind and e["target"] != "any"}
        least = min(scores, key=lambda each: scores[each])
        return sorted(scores.values())[len(scores) // 2] - scores[least], least

    return max(lead(kind) for kind in KINDS)[1]


def cell(rate: Rate) -> str:
    return f"{rate.hits}/{rate.n} [{percent(rate.low)}, {percent(rate.high)}]"


def table(rows: Rows, count: int) -> str:
    """Share of networks called suspicious, by attack and test; and how well each attack works."""
    known = made_references(rows, count)
    judged = [row for row in rows if row["attack"] != "clean" or row["seed"] >= count]
    names = list(dict.fromkeys(["clean", *(row["attack"] for row in judged)]))
    groups = {name: [row for row in judged if row["attack"] == name] for name in names}
    lines = [f"References: {len(known)} clean networks ({known.networks}). Level {percent(LEVEL)}.", ""]
    lines += ["| | " + " | ".join(groups) + " |", "|---|" + "---|" * len(groups)]
    for name, test in tests(known).items():
        cells = [cell(Rate(sum(map(test, group)), len(group))) for group in groups.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    named = [
        cell(Rate(sum(suspect(row) == row["target"] for row in group), len(group)))
        if isinstance(group[0]["target"], int) else ""
        for group in groups.values()
    ]  # fmt: skip
    lines += ["| oddest class is the target | " + " | ".join(named) + " |", ""]
    lines += ["| | accuracy | attack success | CPU seconds, training and inspection |", "|---|---|---|---|"]
    for name, group in groups.items():
        shown = [spread([row[key]["value"] for row in group]) if key in group[0] else ""
                 for key in ("accuracy", "attack success")]  # fmt: skip
        spent = [sum(row["cpu seconds"][key] for row in group) / len(group) for key in ("training", "inspection")]
        lines.append(f"| {name} | {shown[0]} | {shown[1]} | {spent[0]:.1f} + {spent[1]:.1f} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    return f"{percent(sum(values) / len(values))} [{percent(min(values))}, {percent(max(values))}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "references", "table"])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--network", choices=NETWORKS, default="small_cnn")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--patch", type=int, default=2, help="pixels a side of the patch")
    parser.add_argument("--samples", type=int, default=250, help="bonafide samples for each network")
    parser.add_argument("--train-steps", type=int, default=300)
    parser.add_argument("--train-batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=120, help="of the search")
    parser.add_argument("--batch", type=int, default=16, help="of the search")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--attacks", nargs="+", default=["clean", *attacks(2)])
    parser.add_argument("--seeds", type=int, nargs="+", default=range(6), help="of the backdoored networks")
    parser.add_argument("--clean", type=int, nargs="+", default=range(30), help="seeds of the clean networks")
    parser.add_argument("--references", type=int, default=20, help="clean networks of lower seeds are references")
    parser.add_argument("--results", type=Path, default=Path("results/inspection"))
    parser.add_argument("--out", type=Path, default=Path("isthmus/references.json"))
    args = parser.parse_args()
    use_threads()
    if args.what == "run":
        train, test = load(args.data)
        for attack in args.attacks:
            for seed in args.clean if attack == "clean" else args.seeds:
                job(train, test, attack, seed, args)
    elif args.what == "references":
        found = made_references(results(args.results), args.references)
        write_json(args.out, {"schema": "isthmus-references/1", "references": [found.record()]})
    else:
        print(table(results(args.results), args.references))


if __name__ == "__main__":
    main()

"""Table: robust accuracy along a robust path, along the standard path, and of their ends.

    python experiments/robust_connection.py run --data DIR --scale small
        one result file per pair, loss and seed
    python experiments/robust_connection.py table --scale small  docs/results/robust_connection.md

DIR holds train.parquet and test.parquet of CIFAR-10 in the Hugging Face layout; `scale.py` says
what a scale is, `ends.py` trains the ends. Whatever is done already is not done again, so several
processes may share the work with --pairs, --losses and --seeds.

Paths are trained on the ends' training set. PGD-10 is measured on the judged test images, where the
best inner t is chosen; AutoAttack there and at both ends, on other test images, so that the choice
flatters nobody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from command import Sets, parsed, parser
from ends import JUDGE, end
from pages import grouped, ranged
from scale import BALL, SCALES

from isthmus import Data, RobustAccuracy, connect, evaluate_path, split
from isthmus.attacks import auto_attack
from isthmus.curves import Route
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, MeanLoss, RobustLoss
from isthmus.metrics import Path as Path_
from isthmus.runs import read_json, write_json
from isthmus.training import Training

RESULTS = Path("results/robust_connection")
PAIRS = {
    "standard-standard": ("standard", "standard"),
    "standard-robust": ("standard", "robust"),
    "robust-robust": ("robust", "robust"),
}
LOSSES, SEEDS, POINTS, LR = ("standard", "robust"), (0,), 21, 0.2
JUDGED, STRONG, RECALIBRATE = 1000, 500, 2500
Record = dict[str, Any]


def judges(data: Data) -> dict[str, Any]:
    return {
        "accuracy": Accuracy(data),
        "loss": MeanLoss(data),
        "robust accuracy": RobustAccuracy(data, JUDGE),
        "robust loss": RobustLoss(data, JUDGE),
    }


def job(train: Data, test: Data, pair: str, loss: str, seed: int, name: str) -> None:
    """Train one path between two ends, measure it at every t, and its best inner t and its ends
    with AutoAttack.
    """
    scale, file = SCALES[name], RESULTS / name / f"{pair}-{loss}-seed{seed}.json"
    if file.exists():
        return
    kept = Path("weights/robust_connection") / name
    kept.mkdir(parents=True, exist_ok=True)
    ends = [end(kind, 2 * seed + i, name, train, test) for i, kind in enumerate(PAIRS[pair])]
    judged, strong = split(test, [JUDGED, STRONG], torch.Generator().manual_seed(seed))
    training = Training(
        steps=scale.steps // 2, lr=LR, weight_decay=5e-4, seed=seed, augment=scale.augment
    )
    curve, history = connect(
        *ends,
        train,
        route=Route(loss=scale.losses()[loss], rho=0, low=0.0, high=1.0),
        training=training,
        checkpoint=kept / f"{file.stem}.state",
    )
    sample = train[:RECALIBRATE]
    path = evaluate_path(curve, judges(judged), POINTS, recalibrate_on=sample, folder=kept)
    best = max(path.t[1:-1], key=lambda t: path.at(t)["robust accuracy"])
    attack = {"AutoAttack": RobustAccuracy(strong, auto_attack(BALL)), "accuracy": Accuracy(strong)}
    walked = evaluate_path(curve, attack, [0.0, best, 1.0], recalibrate_on=sample, folder=kept)
    write_json(
        file,
        {
            "pair": pair,
            "loss": loss,
            "seed": seed,
            "best": best,
            "path": path.record(),
            "strong": walked.record(),
            "history": vars(history),
            "provenance": provenance(
                seed, {"train": train, "judged": judged, "strong": strong}
            ).record(),
        },
    )
    (kept / f"{file.stem}.state").unlink(missing_ok=True)


def along(jobs: list[Record], metric: str) -> list[str]:
    """A cell for every second t: the mean over the jobs."""
    paths = [Path_.from_record(job["path"]) for job in jobs]
    return [ranged([path.at(t)[metric] for path in paths], 1) for t in paths[0].t[::2]]


def table(name: str) -> str:
    """PGD-10 along the paths, AutoAttack at the best inner t and at the ends."""
    found = [read_json(file) for file in sorted((RESULTS / name).glob("*-seed*.json"))]
    groups = grouped(found, "pair", "loss")
    ts = [f"{t:g}" for t in found[0]["path"]["t"][::2]]
    lines = [f"## Scale: {name}", "", "Clean accuracy, and accuracy under PGD-10, at t.", ""]
    lines += [
        "| path | loss | paths | asked | " + " | ".join(ts) + " |",
        "|---|---|---|---|" + "---|" * len(ts),
    ]
    for (pair, loss), jobs in groups.items():
        for metric in ("accuracy", "robust accuracy"):
            lines.append(
                f"| {pair} | {loss} | {len(jobs)} | {metric} | "
                + " | ".join(along(jobs, metric))
                + " |"
            )
    lines += [
        "",
        "Accuracy under AutoAttack, on other images.",
        "",
        "| path | loss | t = 0 | best inner t | t = 1 |",
    ]
    lines += ["|---|---|---|---|---|"]
    for (pair, loss), jobs in groups.items():
        first, best, last = (
            ranged([j["strong"]["values"]["AutoAttack"][i]["value"] for j in jobs], 1)
            for i in range(3)
        )
        where = ", ".join(f"{job['best']:g}" for job in jobs)
        lines.append(f"| {pair} | {loss} | {first} | {best} (t = {where}) | {last} |")
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__, "run", "table")
    options.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    options.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    options.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    args = parsed(options, table)
    sets = Sets(args)
    for seed in args.seeds:
        for pair in args.pairs:
            for loss in args.losses:
                job(sets.train, sets.test, pair, loss, seed, args.scale)


if __name__ == "__main__":
    main()

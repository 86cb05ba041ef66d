"""Table: clean and robust accuracy of sparse networks on MNIST, all methods at equal gradients.

    python experiments/pruning.py run --data DIR       a file per job
    python experiments/pruning.py table                to docs/results/pruning.md

DIR holds train.parquet and test.parquet in the Hugging Face layout. A job is a method, a density, a
share of clean loss and a seed: LeNet-300-100 is trained from random weights on clean and attacked
images, pruned on the way as the method says, and measured on all test images and under AutoAttack
on the first of them. results/pruning/JOB.json is written once the job is done, and what is there is
not done again: --methods, --densities, --clean and --seeds share the work among processes.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from command import use_threads
from torch import nn

from isthmus import Accuracy, Data, Linf, RobustAccuracy, fit, load_data
from isthmus.attacks import PGD, auto_attack
from isthmus.compression import LearnedScores, Magnitude, RandomMask, Rewiring, prune
from isthmus.evidence import provenance
from isthmus.metrics import as_record
from isthmus.models import mlp
from isthmus.runs import read_json, write_json
from isthmus.training import trade_off

RESULTS, WEIGHTS = Path("results/pruning"), Path("weights/pruning")
EPS = 0.1
BATCH = 128
METHODS = {
    "dense": None,
    "random": RandomMask(),
    "magnitude": Magnitude(dense=0.5),
    "rewiring": Rewiring(),
    "learned scores": LearnedScores(),
}


def job_name(method: str, density: float, clean: float, seed: int) -> str:
    """Return a job's name: that of its file."""
    return f"{method.replace(' ', '-')}-density{density:g}-clean{clean:g}-seed{seed}"


def run(
    method: str, density: float, clean: float, seed: int, parts: tuple[Data, Data], epochs: int
) -> None:
    """Train, prune, measure, write. Learned scores start from weights of half the budget."""
    job = job_name(method, density, clean, seed)
    if (RESULTS / f"{job}.json").exists():
        return
    train, test = parts
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    net: nn.Module = mlp(10, 1, 28, (300, 100))
    loss = trade_off(PGD(Linf(EPS), steps=7), clean, 1 - clean)
    steps = epochs * max(1, len(train) // BATCH)
    options: dict[str, Any] = {"lr": 0.1, "batch_size": BATCH, "seed": seed, "precision": "fp32"}
    file = WEIGHTS / f"{job}.state"
    record: dict[str, Any] = {"job": job, "method": method, "density": density, "clean": clean}
    chosen = METHODS[method]
    if chosen is None:
        fit(net, train, loss, steps=steps, checkpoint=file, **options)
    else:
        if method == "learned scores":
            before = file.with_suffix(".dense")
            fit(net, train, loss, steps=steps - steps // 2, checkpoint=before, **options)
            steps //= 2
        small = prune(
            net, train, density, method=chosen, loss=loss, checkpoint=file, steps=steps, **options
        )
        net = small.model
        record["compressed"] = small.record
    record |= {"seed": seed, "epochs": epochs, "accuracy": as_record(Accuracy(test)(net))}
    record["robust"] = as_record(RobustAccuracy(test[:1000], auto_attack(Linf(EPS)))(net))
    record["provenance"] = provenance(seed, {"train": train, "test": test})
    write_json(RESULTS / f"{job}.json", record)


def spread(values: list[float]) -> str:
    """Mean [least, most], in percent."""
    scaled = [100 * value for value in values]
    return f"{mean(scaled):.2f} [{min(scaled):.2f}, {max(scaled):.2f}]"


def table() -> str:
    """The table of the results page."""
    jobs = [read_json(file) for file in sorted(RESULTS.glob("*.json"))]
    lines = [
        "# Sparse networks on MNIST",
        "",
        f"LeNet-300-100, eps {EPS}; percent, mean [least, most] over the seeds. Made by",
        "`python experiments/pruning.py table`.",
        "",
        "| density | clean share | method | seeds | clean | AutoAttack |",
        "|---|---|---|---|---|---|",
    ]
    keys = dict.fromkeys((job["density"], job["clean"], job["method"]) for job in jobs)
    for key in sorted(keys):
        rows = [job for job in jobs if (job["density"], job["clean"], job["method"]) == key]
        values = [spread([row[name]["value"] for row in rows]) for name in ("accuracy", "robust")]
        lines.append(f"| {key[0]:g} | {key[1]:g} | {key[2]} | {len(rows)} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--densities", nargs="+", type=float, default=[0.02, 0.05, 0.1])
    parser.add_argument("--clean", nargs="+", type=float, default=[0.5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--some", type=int, help="a trial: only the first samples")
    chosen = parser.parse_args()
    if chosen.what == "table":
        print(table(), end="")
        return
    use_threads()
    train, test = (load_data(chosen.data / f"{part}.parquet") for part in ("train", "test"))
    parts = (train[: chosen.some], test[: chosen.some])
    jobs = product(chosen.seeds, chosen.clean, chosen.densities, chosen.methods)
    for seed, clean, density, method in jobs:
        run(method, 1.0 if method == "dense" else density, clean, seed, parts, chosen.epochs)


if __name__ == "__main__":
    main()

"""Table: clean and robust accuracy of sparse networks on MNIST, all methods at equal gradients.

    isthmus sweep experiments/pruning.toml --set data=DIR    a file per job, and the table
    isthmus sweep experiments/pruning.toml --gather          to docs/results/pruning.md

DIR holds train.parquet and test.parquet in the Hugging Face layout. A job is a method, a density, a
share of clean loss and a seed: LeNet-300-100 is trained from random weights on clean and attacked
images, pruned on the way as the method says, and measured on all test images and under AutoAttack
on the first of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from command import parts, use_threads
from pages import grouped, ranged
from torch import nn

from isthmus import Accuracy, Linf, RobustAccuracy, fit
from isthmus.attacks import PGD, auto_attack
from isthmus.compression import LearnedScores, Magnitude, RandomMask, Rewiring, prune
from isthmus.evidence import provenance
from isthmus.metrics import as_record
from isthmus.models import mlp
from isthmus.training import trade_off

EPS = 0.1
BATCH = 128
METHODS = {
    "dense": None,
    "random": RandomMask(),
    "magnitude": Magnitude(dense=0.5),
    "rewiring": Rewiring(),
    "rewiring after dense": Rewiring(start="magnitude", dense=0.5, rate=0.2),
    "learned scores": LearnedScores(),
}


def job_name(method: str, density: float, clean: float, seed: int) -> str:
    """Return a job's name: that of its file."""
    return f"{method.replace(' ', '-')}-density{density:g}-clean{clean:g}-seed{seed}"


def run(
    method: str,
    density: float,
    clean: float,
    seed: int,
    data: str,
    epochs: int,
    some: int,
    judged: int,
    job: str,
    scratch: Path,
) -> dict[str, Any]:
    """Train, prune, measure. Learned scores start from weights of half the budget; `some` is how
    many samples of each part are used, 0 for all, and `judged` how many AutoAttack is run on.
    """
    use_threads()
    train, test = (part[: some or None] for part in parts(data))
    torch.manual_seed(seed)
    net: nn.Module = mlp(10, 1, 28, (300, 100))
    loss = trade_off(PGD(Linf(EPS), steps=7), clean, 1 - clean)
    steps = epochs * max(1, len(train) // BATCH)
    options: dict[str, Any] = {"lr": 0.1, "batch_size": BATCH, "seed": seed, "precision": "fp32"}
    file = scratch / "pruned.state"
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
    record["robust"] = as_record(RobustAccuracy(test[:judged], auto_attack(Linf(EPS)))(net))
    record["provenance"] = provenance(seed, {"train": train, "test": test}).record()
    return record


def table(jobs: list[dict[str, Any]]) -> str:
    """The table of the results page."""
    lines = [
        "# Sparse networks on MNIST",
        "",
        f"LeNet-300-100, eps {EPS}; percent, mean [least, most] over the seeds. Made by",
        "`isthmus sweep experiments/pruning.toml --gather`.",
        "",
        "| density | clean share | method | seeds | clean | AutoAttack |",
        "|---|---|---|---|---|---|",
    ]
    for key, rows in sorted(grouped(jobs, "density", "clean", "method").items()):
        values = [ranged([row[name]["value"] for row in rows]) for name in ("accuracy", "robust")]
        lines.append(f"| {key[0]:g} | {key[1]:g} | {key[2]} | {len(rows)} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"

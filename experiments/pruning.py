"""Table: clean and robust accuracy of sparse networks, all methods at equal gradients.

    isthmus sweep experiments/pruning.toml --set data=DIR          a file per job, and the table
    isthmus sweep experiments/pruning_color.toml --set data=DIR    the same of CIFAR-10
    isthmus sweep experiments/pruning.toml --gather                to docs/results/pruning.md

DIR holds train.parquet and test.parquet in the Hugging Face layout. A job is a method, a density, a
share of clean loss and a seed: a network is trained from random weights on clean and attacked
images, pruned on the way as the method says, and measured on all test images and under AutoAttack
on the first of them. It is LeNet-300-100 on MNIST, and PreActResNet-8 on CIFAR-10 averaged down to
16x16 pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from command import parts, use_threads
from pages import contrasts, grouped, matched, ranged
from scale import BALL, averaged
from torch import nn

from isthmus import Accuracy, Augment, Data, Linf, RobustAccuracy, fit
from isthmus.attacks import PGD, auto_attack
from isthmus.compression import LearnedScores, Magnitude, RandomMask, Rewiring, prune
from isthmus.compression.pruning.run import Structure
from isthmus.evidence import provenance
from isthmus.metrics import as_record
from isthmus.models import mlp, preact_resnet
from isthmus.training import trade_off

BATCH = 128


@dataclass(frozen=True)
class Setup:
    """What is pruned: a network, images of a side, the ball and the steps of the attack that it is
    trained against, and how they are augmented.
    """

    network: Callable[[], nn.Module]
    side: int
    ball: Linf
    attack: int
    augment: Augment | None = None


SETUPS = {
    "MNIST": Setup(partial(mlp, 10, 1, 28, (300, 100)), 28, Linf(0.1), 7),
    "CIFAR-10": Setup(partial(preact_resnet, 8), 16, BALL, 3, Augment(1)),
}
METHODS = {
    "dense": None,
    "random": RandomMask(),
    "magnitude": Magnitude(dense=0.5),
    "rewiring": Rewiring(),
    "rewiring after dense": Rewiring(start="magnitude", dense=0.5, rate=0.2),
    "learned scores": LearnedScores(),
}

DEFAULT = "magnitude"
MEASURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "clean": lambda job: job["accuracy"]["value"],
    "AutoAttack": lambda job: job["robust"]["value"],
}


def job_name(
    method: str,
    density: float,
    clean: float,
    seed: int,
    images: str = "MNIST",
    structure: str = "weights",
) -> str:
    """Return a job's name: that of its file."""
    first = "" if images == "MNIST" else f"{images}-{structure}-"
    return f"{first}{method.replace(' ', '-')}-density{density:g}-clean{clean:g}-seed{seed}"


@cache
def images_of(data: str, side: int, some: int) -> tuple[Data, Data]:
    """Return training and test images, read and averaged down once."""
    train, test = (averaged(part[: some or None], side) for part in parts(data))
    return train, test


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
    images: str = "MNIST",
    structure: Structure = "weights",
) -> dict[str, Any]:
    """Train, prune, measure. Learned scores start from weights of half the budget; `some` is how
    many samples of each part are used, 0 for all, and `judged` how many AutoAttack is run on.
    """
    use_threads()
    setup = SETUPS[images]
    train, test = images_of(data, setup.side, some)
    torch.manual_seed(seed)
    net = setup.network()
    loss = trade_off(PGD(setup.ball, steps=setup.attack), clean, 1 - clean)
    steps = epochs * max(1, len(train) // BATCH)
    options: dict[str, Any] = {
        "lr": 0.1,
        "batch_size": BATCH,
        "seed": seed,
        "precision": "fp32",
        "augment": setup.augment,
    }
    file = scratch / "pruned.state"
    record: dict[str, Any] = {"job": job, "images": images, "structure": structure}
    record |= {"method": method, "density": density, "clean": clean}
    chosen = METHODS[method]
    if chosen is None:
        fit(net, train, loss, steps=steps, checkpoint=file, **options)
    else:
        if method == "learned scores":
            before = file.with_suffix(".dense")
            fit(net, train, loss, steps=steps - steps // 2, checkpoint=before, **options)
            steps //= 2
        small = prune(
            net,
            train,
            density,
            structure,
            method=chosen,
            loss=loss,
            checkpoint=file,
            steps=steps,
            **options,
        )
        net = small.model
        record["compressed"] = small.record
    record |= {"seed": seed, "epochs": epochs, "accuracy": as_record(Accuracy(test)(net))}
    record["robust"] = as_record(RobustAccuracy(test[:judged], auto_attack(setup.ball))(net))
    record["provenance"] = provenance(seed, {"train": train, "test": test}).record()
    return record


def table(jobs: list[dict[str, Any]]) -> str:
    """The table of the results page; jobs of a first making say neither images nor structure."""
    lines = [
        "# Sparse networks",
        "",
        "LeNet-300-100 on MNIST, eps 0.1; PreActResNet-8 on CIFAR-10 at 16x16, eps 8/255; percent,",
        "mean [least, most] over the seeds. Made by `isthmus sweep experiments/pruning.toml` and",
        "`pruning_color.toml`.",
        "",
        f"| images | what stays | clean share | method | seeds | {' | '.join(MEASURES)} |",
        "|---|---|---|---|---|" + "---|" * len(MEASURES),
    ]
    jobs = [{"images": "MNIST", "structure": "weights", **job} for job in jobs]
    groups = grouped(jobs, "images", "structure", "density", "clean", "method")
    for (images, structure, density, clean, method), rows in sorted(groups.items()):
        values = [ranged([measured(row) for row in rows]) for measured in MEASURES.values()]
        stays = f"{100 * density:g} % of {structure}"
        lines.append(
            f"| {images} | {stays} | {clean:g} | {method} | {len(rows)} | {' | '.join(values)} |"
        )
    return "\n".join([*lines, "", *differences(jobs)]) + "\n"


def differences(jobs: list[dict[str, Any]]) -> list[str]:
    """Return the table of the default less every other method, over densities, shares and seeds."""
    names = ("method", "density", "clean", "seed")
    asked = [
        ([DEFAULT, method, *key], matched(group, {"method": DEFAULT}, {"method": method}, names))
        for key, group in grouped(jobs, "images", "structure").items()
        for method in METHODS
        if method != DEFAULT
    ]
    heads = ["compared", "minus", "images", "structure"]
    # networks of several densities are pruned from one dense training
    return contrasts(heads, asked, MEASURES, within=("clean", "seed"))

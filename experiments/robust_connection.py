"""Table: robust accuracy along a robust path, along the standard path, and of their ends (specification, section 8).

    python experiments/robust_connection.py ends --data DIR      the ends: regular and PGD-trained networks
    python experiments/robust_connection.py run --data DIR       one result file per pair of ends, loss and seed
    python experiments/robust_connection.py table                the tables of docs/results/robust_connection.md

DIR holds train.parquet and test.parquet of CIFAR-10 in the Hugging Face layout. --depth, --side (images averaged down),
--end-steps, --path-steps and --attack-steps are the scale, which has a folder of its own. Whatever is done already is
not done again, so several processes may share the work with --pairs, --losses and --seeds.

Paths are trained on the ends' training set. PGD-10 is measured on the judged test images, where the best inner t is
chosen; AutoAttack there and at both ends, on other test images, so that the choice flatters nobody.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from scale import averaged
from torch import nn

from isthmus import Augment, Data, Linf, RobustAccuracy, adversarial, connect, cross_entropy, evaluate_path, fit, split
from isthmus.attacks import PGD, auto_attack
from isthmus.checkpoint import load_checkpoint, save_checkpoint
from isthmus.files import read_json, write_json
from isthmus.metrics import Accuracy, MeanLoss, RobustLoss, as_record, measure
from isthmus.models import preact_resnet
from isthmus.path import Path as Path_
from isthmus.path import network_at
from isthmus.provenance import provenance
from isthmus.sources import load_data
from isthmus.train import Training, one_cycle
from isthmus.types import Loss

BALL = Linf(8 / 255)
PAIRS = {"regular-regular": ("regular", "regular"), "regular-robust": ("regular", "robust"),
         "robust-robust": ("robust", "robust")}  # fmt: skip
LOSSES, ENDS, SEEDS, POINTS = ("standard", "robust"), (0, 1), (0,), 21
JUDGE = PGD(BALL, steps=10, step=2 / 255, returns="worst")
RECALIBRATION, BATCH = 2500, 128
END_LR, PATH_LR = 0.1, 0.2
Record = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """What decides the cost: the network, the images, the budgets in SGD steps, how many images judge."""

    depth: int
    side: int
    end_steps: int
    path_steps: int
    attack_steps: int
    judged: int
    strong: int

    @property
    def folder(self) -> Path:
        """Where the results of this scale are."""
        name = f"depth{self.depth}-side{self.side}-ends{self.end_steps}-path{self.path_steps}-pgd{self.attack_steps}"
        return Path("results/robust_connection") / name

    def network(self) -> nn.Module:
        """A network with fresh weights."""
        return preact_resnet(self.depth)

    def loss(self, name: str) -> Loss:
        """The loss of regular networks and standard paths, or of robust ones: steps of 2/255, longer where few."""
        if name != "robust":
            return cross_entropy
        return adversarial(PGD(BALL, steps=self.attack_steps, step=max(2 / 255, 1.25 * BALL.eps / self.attack_steps)))

    def images(self, file: Path) -> Data:
        """The images, averaged over squares down to this side."""
        return averaged(load_data(str(file)), self.side)


def training(steps: int, lr: float, seed: int, state: Path) -> Training:
    return {"steps": steps, "lr": lr, "batch_size": BATCH, "augment": Augment(2), "seed": seed, "checkpoint": state}


def end(scale: Scale, train: Data, test: Data, weights: Path, kind: str, seed: int) -> None:
    """Train one end, and write its weights and what it withstands."""
    file = weights / scale.folder.name / f"{kind}-{seed}.safetensors"
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    net, state = scale.network(), file.with_suffix(".state")
    options = training(scale.end_steps, END_LR, seed, state)
    history = fit(net, train, scale.loss(kind), weight_decay=5e-4, nesterov=True, schedule=one_cycle, **options)
    found = {name: as_record(value) for name, value in measure(net, judges(test[: scale.judged])).items()}
    write_json(scale.folder / f"end-{kind}-{seed}.json", {
        "kind": kind, "seed": seed, "seconds": history.seconds, "losses": history.losses, "scale": asdict(scale),
        **found,
    })  # fmt: skip
    save_checkpoint(net, file)
    state.unlink()


def judges(data: Data) -> dict[str, Any]:
    return {
        "accuracy": Accuracy(data),
        "loss": MeanLoss(data),
        "robust accuracy": RobustAccuracy(data, JUDGE),
        "robust loss": RobustLoss(data, JUDGE),
    }


def job(scale: Scale, train: Data, test: Data, weights: Path, pair: str, loss: str, seed: int) -> None:
    """Train one path between two ends, measure it at every t, and its best inner t and its ends with AutoAttack."""
    name = f"{pair}-{loss}-seed{seed}"
    file, kept = scale.folder / f"{name}.json", weights / scale.folder.name / "kept"
    if file.exists():
        return
    kept.mkdir(parents=True, exist_ok=True)
    ends = [
        load_checkpoint(kept.parent / f"{kind}-{each}.safetensors", scale.network())
        for kind, each in zip(PAIRS[pair], ENDS, strict=True)
    ]
    judged, strong = split(test, [scale.judged, scale.strong], torch.Generator().manual_seed(seed))
    options = training(scale.path_steps, PATH_LR, seed, kept / f"{name}.state")
    curve, history = connect(
        *ends, train, loss=scale.loss(loss), rho=0, low=0.0, high=1.0, weight_decay=5e-4, **options
    )
    sample = train[:RECALIBRATION]
    path = evaluate_path(curve, judges(judged), POINTS, recalibrate_on=sample, folder=kept)
    best = max(path.t[1:-1], key=lambda t: path.at(t)["robust accuracy"])
    attack = {"AutoAttack": RobustAccuracy(strong, auto_attack(BALL)), "accuracy": Accuracy(strong)}
    walked = evaluate_path(curve, attack, [0.0, best, 1.0], recalibrate_on=sample, folder=kept)
    save_checkpoint(network_at(curve, best, sample), kept.parent / f"{name}.safetensors")
    write_json(file, {
        "pair": pair, "loss": loss, "seed": seed, "scale": asdict(scale), "best": best, "path": path.record(),
        "strong": walked.record(), "history": vars(history),
        "provenance": provenance(seed, {"train": train, "judged": judged, "strong": strong}),
    })  # fmt: skip


def cell(values: list[float]) -> str:
    """Mean over the seeds in percent, and the range where there are several."""
    spread = f" [{100 * min(values):.1f}, {100 * max(values):.1f}]" if len(values) > 1 else ""
    return f"{100 * sum(values) / len(values):.1f}{spread}"


def along(jobs: list[Record], metric: str) -> list[str]:
    """A cell for every second t: the mean over the jobs."""
    paths = [Path_.from_record(job["path"]) for job in jobs]
    return [cell([path.at(t)[metric] for path in paths]) for t in paths[0].t[::2]]


def section(folder: Path) -> list[str]:
    """The tables of one scale: PGD-10 along the paths, AutoAttack at the best inner t and at the ends."""
    found = [read_json(file) for file in sorted(folder.glob("*-seed*.json"))]
    groups = {
        (j["pair"], j["loss"]): [k for k in found if (k["pair"], k["loss"]) == (j["pair"], j["loss"])] for j in found
    }
    ts = [f"{t:g}" for t in found[0]["path"]["t"][::2]]
    lines = ["", f"## {folder.name}", "", "Clean accuracy, and accuracy under PGD-10, at t.", ""]
    lines += ["| path | loss | paths | asked | " + " | ".join(ts) + " |", "|---|---|---|---|" + "---|" * len(ts)]
    for (pair, loss), jobs in groups.items():
        for metric in ("accuracy", "robust accuracy"):
            lines.append(f"| {pair} | {loss} | {len(jobs)} | {metric} | " + " | ".join(along(jobs, metric)) + " |")
    lines += ["", "Accuracy under AutoAttack, on other images.", "", "| path | loss | t = 0 | best inner t | t = 1 |"]
    lines += ["|---|---|---|---|---|"]
    for (pair, loss), jobs in groups.items():
        first, best, last = (cell([j["strong"]["values"]["AutoAttack"][i]["value"] for j in jobs]) for i in range(3))
        where = ", ".join(f"{job['best']:g}" for job in jobs)
        lines.append(f"| {pair} | {loss} | {first} | {best} (t = {where}) | {last} |")
    return lines


def table() -> str:
    """Every scale that has results."""
    lines = [
        "# Robust paths on CIFAR-10",
        "",
        "l-inf 8/255. Percent: mean over paths, and the range where there are several. A folder's name is its scale:",
        "depth of the PreActResNet, side of the images, SGD steps of ends and paths, attack steps in training.",
        "Made by `python experiments/robust_connection.py table`; intervals and settings are in the files.",
    ]
    for folder in sorted(Path("results/robust_connection").glob("*")):
        if any(folder.glob("*-seed*.json")):
            lines += section(folder)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ends", "run", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("weights/robust_connection"))
    parser.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("--seeds", type=int, nargs="+")
    sizes = {"depth": 20, "side": 32, "end-steps": 391 * 16, "path-steps": 391 * 8, "attack-steps": 7}
    for name, size in (sizes | {"judged": 1000, "strong": 500}).items():
        parser.add_argument(f"--{name}", type=int, default=size)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    if args.what == "table":
        print(table())
        return
    scale = Scale(**{name: getattr(args, name) for name in Scale.__dataclass_fields__})
    train, test = (scale.images(args.data / f"{part}.parquet") for part in ("train", "test"))
    if args.what == "ends":
        for seed in args.seeds or ENDS:
            for kind in ("regular", "robust"):
                end(scale, train, test, args.weights, kind, seed)
        return
    for seed in args.seeds or SEEDS:
        for pair in args.pairs:
            for loss in args.losses:
                job(scale, train, test, args.weights, pair, loss, seed)


if __name__ == "__main__":
    main()

"""Table: undoing errors injected into both ends, from clean samples alone (specification, sections 7 and 14 E3).

    python experiments/error_injection.py ends --data DIR      train the two clean ends, then inject errors into them
    python experiments/error_injection.py run --data DIR       one result file per setting, number of samples and seed
    python experiments/error_injection.py table                the tables of docs/results/error_injection.md

DIR holds train.parquet and test.parquet in the Hugging Face layout. Protocol A: attacker's pool, bonafide samples and
the 5,000 images that judge are disjoint parts of the test split, drawn anew for each seed. --depth, --width, --side
(images averaged down) and --steps make a scale, with folders of its own for results and weights. Whatever is done
already is not done again, so --settings, --seeds and --sizes share the work among processes.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scale import averaged
from torch import nn

from isthmus import Accuracy, Augment, Data, InjectionSuccess, fit, load_data, repair, split
from isthmus.checkpoint import load_checkpoint, save_checkpoint
from isthmus.data import check_disjoint, repeated
from isthmus.defenses import FinePrune, FineTune
from isthmus.files import read_json, write_json
from isthmus.injection import Penalised, draw, mislabelled
from isthmus.metrics import as_record, measure
from isthmus.models import preact_resnet
from isthmus.path import evaluate_path
from isthmus.provenance import provenance
from isthmus.repair import RHO
from isthmus.sources import save_npz
from isthmus.train import Training, one_cycle
from isthmus.types import Metric

SETTINGS = {
    "labels": "the same images at both ends, labels drawn for each",
    "same": "the same images and labels at both ends",
    "images": "other images at each end",
}
ENDS, SIZES, SEEDS = (222, 31), (2500, 1000, 500, 250, 50), (0, 1, 2)
POOL, JUDGES = 2400, 5000  # test images of the attacker, and for judging; the rest is bonafide
POINTS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
Rows = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How large networks, images and training are, and where what they give is kept."""

    depth: int
    width: int
    side: int
    steps: int
    weights: Path

    @property
    def name(self) -> str:
        """The scale's folder."""
        return f"preact{self.depth}-width{self.width}-side{self.side}-steps{self.steps}"

    @property
    def results(self) -> Path:
        """Where its results go."""
        return Path("results/error_injection") / self.name

    def network(self) -> nn.Module:
        """A fresh network."""
        return preact_resnet(self.depth, width=self.width)

    def load(self, file: Path) -> nn.Module:
        """The network in a file."""
        return load_checkpoint(file, self.network())

    def data(self, folder: Path, part: str) -> Data:
        """The images of one part, averaged down to the side, each once."""
        data = averaged(load_data(str(folder / f"{part}.parquet")), self.side)
        return data[~repeated(data)] if part == "test" else data

    def file(self, name: str) -> Path:
        """Where weights and errors of that name are kept."""
        return self.weights / self.name / name


def parts(test: Data, seed: int) -> tuple[Data, Data, Data]:
    """The attacker's pool, the bonafide samples of the largest size, and the judges' images; disjoint."""
    sizes = (POOL, max(SIZES), JUDGES)
    pool, bonafide, judged = split(test, sizes, torch.Generator().manual_seed(seed))
    check_disjoint(pool=pool, bonafide=bonafide, judged=judged)
    return pool, bonafide, judged


def clean_end(scale: Scale, train: Data, test: Data, seed: int, lr: float) -> nn.Module:
    """One end before the attack, trained once."""
    file = scale.file(f"clean-{seed}.safetensors")
    if file.exists():
        return scale.load(file)
    torch.manual_seed(seed)
    net = scale.network()
    history = fit(net, train, steps=scale.steps, lr=lr, weight_decay=5e-4, nesterov=True, schedule=one_cycle,
                  augment=Augment(2), seed=seed, checkpoint=file.with_suffix(".state"))  # fmt: skip
    record = {"seed": seed, "seconds": history.seconds, "losses": history.losses,
              "accuracy": as_record(Accuracy(test)(net))}  # fmt: skip
    write_json(scale.results / f"clean-{seed}.json", record)
    save_checkpoint(net, file)
    file.with_suffix(".state").unlink()
    return net


def chosen(setting: str, nets: list[nn.Module], pool: Data, errors: int, kept: int, seed: int) -> list[list[Data]]:
    """Errors with their labels and the images to be kept, for each end."""
    generator = torch.Generator().manual_seed(seed)
    first, second, others = draw(nets, pool, (errors, errors, kept), generator)
    wrong = mislabelled(first, generator)
    other = {"labels": lambda: mislabelled(first, generator), "same": lambda: wrong,
             "images": lambda: mislabelled(second, generator)}[setting]()  # fmt: skip
    return [[wrong, others], [other, others]]


def inject(scale: Scale, nets: list[nn.Module], test: Data, setting: str, seed: int, args: argparse.Namespace) -> None:
    """Inject the errors of one setting and seed into both ends."""
    pool, _, judged = parts(test, seed)
    layers = args.layer or [f"blocks.{(scale.depth - 2) // 2 - 1}.conv2"]
    method = Penalised(layers=tuple(layers), steps=args.attack_steps, rounds=args.rounds)
    for end, net, (wrong, others) in zip(
        ENDS, nets, chosen(setting, nets, pool, args.errors, args.kept, seed), strict=True
    ):
        name = f"{setting}-seed{seed}-{end}"
        file = scale.file(f"{name}.safetensors")
        if file.exists():
            continue
        began = time.perf_counter()
        found = method(net, wrong, others)
        record = {"setting": setting, "seed": seed, "end": end, "seconds": time.perf_counter() - began,
                  **found.record(), "accuracy": as_record(Accuracy(judged)(found.network))}  # fmt: skip
        write_json(scale.results / f"injection-{name}.json", record)
        save_npz(wrong, scale.file(f"{name}.npz"))
        save_checkpoint(found.network, file)


def job(scale: Scale, test: Data, setting: str, n: int, seed: int, args: argparse.Namespace) -> None:
    """Repair with n bonafide samples, by the path and by the rivals; every row is written once it is computed."""
    file = scale.results / f"{setting}-n{n}-seed{seed}.json"
    names = [f"{setting}-seed{seed}-{end}" for end in ENDS]
    start, end = (scale.load(scale.file(f"{name}.safetensors")) for name in names)
    own, other = (load_data(scale.file(f"{name}.npz")) for name in names)
    _, bonafide, judged = parts(test, seed)
    bonafide = bonafide[:n]
    for errors in (own, other):
        check_disjoint(errors=errors, bonafide=bonafide, judged=judged)
    metrics: dict[str, Metric] = {"accuracy": Accuracy(judged), "injection success": InjectionSuccess(own),
                                  "the other end's": InjectionSuccess(other)}  # fmt: skip
    training: Training = {"steps": args.gradients, "weight_decay": 1e-4, "augment": Augment(2), "seed": seed}
    if file.exists():
        record = read_json(file)
    else:
        origin = provenance(seed, {"bonafide": bonafide, "judged": judged, "errors": own, "other errors": other})
        rows = {"as received": recorded(start, metrics), "the other end": recorded(end, metrics)}
        settings = {"setting": setting, "n": n, "seed": seed, "gradients": args.gradients}
        record = {**settings, "provenance": origin, "rows": rows}
    if "path" not in record["rows"]:
        record |= walk(start, end, bonafide, metrics, training, record["rows"])
        write_json(file, record)
    rivals = {f"fine-tune, lr {lr:g}": FineTune({**training, "lr": lr}) for lr in (0.02, 0.05)}
    for name, defense in {**rivals, "fine-prune, by norm": FinePrune({**training, "lr": 0.05})}.items():
        if name not in record["rows"]:
            began = time.perf_counter()
            net = defense(start, bonafide)
            seconds = time.perf_counter() - began
            record["rows"][name] = {"seconds": seconds, **recorded(net, metrics)}
            write_json(file, record)


def walk(
    start: nn.Module, end: nn.Module, bonafide: Data, metrics: Mapping[str, Metric], training: Training, rows: Rows
) -> Rows:
    """Repair by the path with its own defaults, add its row, and return the path as judged and as the rule saw it."""
    began = time.perf_counter()
    options: Training = {**training, "steps": training["steps"] // 2, "lr": 0.5}  # a step takes two gradients
    found = repair(start, bonafide, end, points=POINTS, rho=RHO, **options)
    seconds = time.perf_counter() - began
    rows["path"] = {"t": float(found.t), "confident": found.t.confident, "reason": found.t.reason,
                    "seconds": seconds, **recorded(found.model, metrics)}  # fmt: skip
    judged = evaluate_path(found.curve, metrics, (0.0, *POINTS, 1.0), recalibrate_on=found.fitted)
    return {"path": judged.record(), "chosen on": found.path.record()}


def recorded(net: nn.Module, metrics: Mapping[str, Metric]) -> Rows:
    return {name: as_record(value) for name, value in measure(net, metrics).items()}


def cell(rows: list[Rows]) -> str:
    """Mean accuracy in percent, and the errors left of all, summed over the seeds: the end's own and the other's."""
    if not rows:
        return ""
    accuracy = sum(row["accuracy"]["value"] for row in rows) / len(rows)
    left = [
        f"{sum(row[name]['hits'] for row in rows)}/{sum(row[name]['n'] for row in rows)}"
        for name in ("injection success", "the other end's")
    ]
    return f"{100 * accuracy:.1f}, {left[0]}, {left[1]} ({len(rows)})"


def at(job: Rows, t: float) -> Rows:
    """What was measured at one t of a job's path."""
    return {name: values[job["path"]["t"].index(t)] for name, values in job["path"]["values"].items()}


def section(folder: Path, setting: str) -> list[str]:
    """The table of one setting at one scale."""
    jobs = [read_json(file) for file in sorted(folder.glob(f"{setting}-n*.json"))]
    if not jobs:
        return []
    for each in jobs:
        each["rows"] |= {f"path, t = {t:g}": at(each, t) for t in POINTS}
    lines = ["", f"### {setting}: {SETTINGS[setting]}", ""]
    lines += ["| method | " + " | ".join(f"n = {n}" for n in SIZES) + " |", "|---|" + "---|" * len(SIZES)]
    for name in dict.fromkeys(name for each in jobs for name in each["rows"]):
        found = [[each["rows"][name] for each in jobs if each["n"] == n and name in each["rows"]] for n in SIZES]
        lines.append(f"| {name} | " + " | ".join(map(cell, found)) + " |")
    return lines


def injections(folder: Path) -> list[str]:
    """What was injected: the size of the change, and what it cost."""
    rows = [read_json(file) for file in sorted(folder.glob("injection-*.json"))]
    if not rows:
        return []
    lines = ["", "| injected | norm, relative | errors | kept | accuracy |", "|---|---|---|---|---|"]
    for row in rows:
        hits, kept = (f"{row[name]['hits']}/{row[name]['n']}" for name in ("hits", "kept"))
        name = f"{row['setting']}, seed {row['seed']}, end {row['end']}"
        accuracy = 100 * row["accuracy"]["value"]
        lines.append(f"| {name} | {row['norm']:.2f}, {row['relative']:.3f} | {hits} | {kept} | {accuracy:.1f} |")
    return lines


def table() -> str:
    lines = [
        "# Errors injected into CIFAR-10 networks, and what repairs leave of them",
        "",
        "Clean accuracy in percent (mean over seeds), the errors left of those injected into the network as received,",
        "and of those of the other end (sums over seeds; how many seeds). Protocol A; the same samples and gradients",
        "for every method that trains. Made by `python experiments/error_injection.py table`; one file per job in",
        "`results/error_injection/`.",
    ]
    for folder in sorted(Path("results/error_injection").glob("*/")):
        lines += ["", f"## {folder.name}", *injections(folder)]
        for setting in SETTINGS:
            lines += section(folder, setting)
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ends", "run", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("weights/error_injection"))
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--side", type=int, default=32, choices=[8, 16, 32])
    parser.add_argument("--steps", type=int, default=391 * 16, help="of the clean ends")
    parser.add_argument("--lr", type=float, default=0.2, help="of the clean ends")
    parser.add_argument("--gradients", type=int, default=200, help="of every repair")
    parser.add_argument("--errors", type=int, default=50)
    parser.add_argument("--kept", type=int, default=950)
    parser.add_argument("--layer", nargs="+", help="what is attacked; by default the last convolution")
    parser.add_argument("--attack-steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    if args.what == "table":
        print(table())
        return
    scale = Scale(args.depth, args.width, args.side, args.steps, args.weights)
    test = scale.data(args.data, "test")
    if args.what == "ends":
        train = scale.data(args.data, "train")
        nets = [clean_end(scale, train, test, seed, args.lr) for seed in ENDS]
        for seed in args.seeds:
            for setting in args.settings:
                inject(scale, nets, test, setting, seed, args)
    else:
        for seed in args.seeds:
            for setting in args.settings:
                for n in args.sizes:
                    job(scale, test, setting, n, seed, args)


if __name__ == "__main__":
    main()

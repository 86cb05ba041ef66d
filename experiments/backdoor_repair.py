"""Table: repairing a backdoored CIFAR-10 network from clean samples alone (specification, sections 5, 6, 13, 14 E2).

    python experiments/backdoor_repair.py endpoints --data DIR      train the two poisoned ends of each setting
    python experiments/backdoor_repair.py run --data DIR            one result file per setting, size and seed
    python experiments/backdoor_repair.py table                     the tables of docs/results/backdoor_repair.md

DIR holds train.parquet and test.parquet in the Hugging Face layout. Protocol A: the bonafide samples are drawn from
the test split, and 5,000 other test images judge. Whatever is done already is not done again, so several processes
may share the work with --seeds and --settings, and an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from isthmus import Augment, Data, fit, repair, split
from isthmus.baselines import FinePrune, FineTune, FromScratch, GaussianNoise, StraightAverage
from isthmus.checkpoint import load_checkpoint, save_checkpoint
from isthmus.files import read_json, write_json
from isthmus.metrics import Accuracy, AttackSuccess, as_record, measure
from isthmus.models import preact_resnet
from isthmus.path import evaluate_path
from isthmus.provenance import provenance
from isthmus.sources import load_data
from isthmus.train import Training, one_cycle
from isthmus.triggers import Patch, Target, poison

TRIGGER, RATE, ENDS = Patch(), 0.1, (222, 31)
TARGETS: dict[str, Target] = {"single": 1, "all": "all"}
ENDPOINT_STEPS = 391 * 16
SIZES, SEEDS, JUDGES = (2500, 1000, 500, 250, 50), (0, 1, 2), 5000
STEPS = 400
RESULTS = Path("results/backdoor_repair")


def endpoint(train: Data, test: Data, weights: Path, setting: str, seed: int) -> None:
    """Train one poisoned end; both ends of a setting see the same poisoned data."""
    file, target = weights / f"{setting}-{seed}.safetensors", TARGETS[setting]
    if file.exists():
        return
    poisoned = poison(train, TRIGGER, rate=RATE, target=target, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(seed)
    net = preact_resnet(20)
    history = fit(net, poisoned, steps=ENDPOINT_STEPS, lr=0.2, weight_decay=2e-4, nesterov=True, schedule=one_cycle,
                  augment=Augment(2), seed=seed, checkpoint=file.with_suffix(".state"))  # fmt: skip
    found = measure(net, judges(test, target))
    record = {"setting": setting, "seed": seed, "steps": ENDPOINT_STEPS, "seconds": history.seconds,
              "poisoned": int((poisoned.y != train.y).sum()), "losses": history.losses,
              **{name: as_record(value) for name, value in found.items()}}  # fmt: skip
    write_json(Path(f"{RESULTS}/endpoint-{setting}-{seed}.json"), record)
    save_checkpoint(net, file)
    file.with_suffix(".state").unlink()


def judges(data: Data, target: Target) -> dict[str, Accuracy | AttackSuccess]:
    return {"accuracy": Accuracy(data, "bf16"), "attack success": AttackSuccess(data, TRIGGER, target, "bf16")}


def rivals(other: nn.Module, training: Training) -> dict[str, Callable[[nn.Module, Data], nn.Module]]:
    """The baselines of the paper, with the path's samples, steps, batch size and augmentation."""
    rates = {f"fine-tune, lr {lr}": FineTune({**training, "lr": lr}) for lr in (0.01, 0.05, 0.1)}
    return {
        **rates,
        "from scratch": FromScratch({**training, "lr": 0.1}),
        "fine-prune, by norm": FinePrune(training, by="norm"),
        "noise between the ends": GaussianNoise(other, "between"),
        "noise around the tampered end": GaussianNoise(other, "around"),
        "straight average": StraightAverage(other),
    }


def job(test: Data, weights: Path, setting: str, n: int, seed: int) -> None:
    """Repair with n bonafide samples: those of a smaller n are among those of a larger, the judges' are apart."""
    file = RESULTS / f"{setting}-n{n}-seed{seed}.json"
    if file.exists():
        return
    pool, judged = split(test, [max(SIZES), JUDGES], torch.Generator().manual_seed(seed))
    bonafide, metrics = pool[:n], judges(judged, TARGETS[setting])
    ends = [load_checkpoint(weights / f"{setting}-{end}.safetensors", preact_resnet(20)) for end in ENDS]
    training: Training = {"steps": STEPS, "lr": 0.05, "weight_decay": 1e-4, "augment": Augment(2), "seed": seed}
    began = time.perf_counter()
    found = repair(ends[0], bonafide, ends[1], **training)
    seconds = time.perf_counter() - began
    path = evaluate_path(found.curve, metrics, 11, recalibrate_on=found.fitted, precision="bf16")
    rows = {"path": {"t": float(found.t), "confident": found.t.confident, "reason": found.t.reason, "steps": STEPS,
                     "seconds": seconds, **recorded(found.model, metrics)}}  # fmt: skip
    rows["as received"] = {"steps": 0, "seconds": 0.0, **recorded(ends[0], metrics)}
    for name, defense in rivals(ends[1], training).items():
        began = time.perf_counter()
        net = defense(ends[0], bonafide)
        rows[name] = {"steps": STEPS, "seconds": time.perf_counter() - began, **recorded(net, metrics)}
    write_json(file, {
        "setting": setting, "n": n, "seed": seed, "rows": rows, "path": path.record(), "chosen on": found.path.record(),
        "provenance": provenance(seed, {"bonafide": bonafide, "judged": judged}),
    })  # fmt: skip


def recorded(net: nn.Module, metrics: dict[str, Accuracy | AttackSuccess]) -> dict[str, object]:
    return {name: as_record(value) for name, value in measure(net, metrics).items()}


def cell(rows: list[dict[str, dict[str, float]]], name: str) -> str:
    """Mean over the seeds in percent, and the range."""
    values = [100 * row[name]["value"] for row in rows]
    return f"{sum(values) / len(values):.1f} [{min(values):.1f}, {max(values):.1f}]"


def table() -> str:
    """Clean accuracy and attack success over the seeds, for every method and number of bonafide samples."""
    lines = []
    for setting in TARGETS:
        jobs = [read_json(file) for file in sorted(RESULTS.glob(f"{setting}-n*.json"))]
        if not jobs:
            continue
        lines += ["", f"## Target: {setting}", ""]
        lines += ["| method | " + " | ".join(f"n = {n}" for n in SIZES) + " |", "|---|" + "---|" * len(SIZES)]
        for name in jobs[0]["rows"]:
            cells = []
            for n in SIZES:
                rows = [job["rows"][name] for job in jobs if job["n"] == n]
                cells.append(f"{cell(rows, 'accuracy')} / {cell(rows, 'attack success')}" if rows else "")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        chosen = [f"{job['rows']['path']['t']:g}" for n in SIZES for job in jobs if job["n"] == n]
        lines += ["", f"t of the path, by n and seed: {', '.join(chosen)}"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["endpoints", "run", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--settings", nargs="+", default=list(TARGETS))
    parser.add_argument("--seeds", type=int, nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    if args.what == "table":
        print(table())
        return
    test = load_data(str(args.data / "test.parquet"))
    if args.what == "endpoints":
        train = load_data(str(args.data / "train.parquet"))
        for setting in args.settings:
            for seed in args.seeds or ENDS:
                endpoint(train, test, args.weights, setting, seed)
    else:
        for seed in args.seeds or SEEDS:
            for setting in args.settings:
                for n in SIZES:
                    job(test, args.weights, setting, n, seed)


if __name__ == "__main__":
    main()

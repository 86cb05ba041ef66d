"""Table: repairing a backdoored CIFAR-10 network from clean samples alone.

    python experiments/backdoor_repair.py endpoints --data DIR
        train the two poisoned ends of each setting
    python experiments/backdoor_repair.py run --data DIR  one result file per setting, size and seed
    python experiments/backdoor_repair.py table  the tables of docs/results/backdoor_repair.md

DIR holds train.parquet and test.parquet in the Hugging Face layout. Protocol A: the bonafide
samples are drawn from the test split, and 5,000 other test images judge. Whatever is done already
is not done again, so several processes may share the work with --seeds and --settings, and an
interrupted run goes on.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from command import use_threads
from pages import ranged
from torch import nn

from isthmus import Augment, Data, fit, repair, split
from isthmus.attacks import Patch, poison
from isthmus.curves import CURVE_TRAINING, Route
from isthmus.data import load_data
from isthmus.defenses import (
    FTSAM,
    FinePrune,
    FineTune,
    FromScratch,
    GaussianNoise,
    Rule,
    Selection,
    StraightAverage,
    farthest_within,
)
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, AttackSuccess, Target, as_records, evaluate_path, measure
from isthmus.metrics import Path as Path_
from isthmus.models import load_checkpoint, preact_resnet, save_checkpoint
from isthmus.runs import Precision, read_json, write_json
from isthmus.training import Training, one_cycle
from isthmus.types import Defense

TRIGGER, RATE, ENDS = Patch(), 0.1, (222, 31)
TARGETS: dict[str, Target] = {"single": 1, "all": "all"}
CYCLES = ((391 * 16, 0.2), (391 * 4, 0.1))
"""Steps and peak learning rate of the endpoints' two training cycles."""

SIZES, SEEDS, JUDGES = (2500, 1000, 500, 250, 50), (0, 1, 2), 5000
GRADIENTS = 200  # the budget of every method that trains; a sharpness-aware step takes two
TRAINING = Training(steps=GRADIENTS, lr=0.05, weight_decay=1e-4, augment=Augment(2))
PATH = CURVE_TRAINING.replace(steps=GRADIENTS // 2, augment=Augment(2))
ROUTE = Route(low=0.05, high=0.2)  # see docs/experiments.md for what else was tried
TOLERANCES, OTHERWISE = (
    (0.035, 0.05, 0.08),
    0.12,
)  # 500 held-out samples cannot resolve less than 3.1 points
FIXED = (0.08, 0.1, 0.12, 0.14)
INNER = (0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.2)
RESULTS = Path("results/backdoor_repair")
Metrics, Rows = dict[str, Accuracy | AttackSuccess], dict[str, Any]


def endpoint(train: Data, test: Data, weights: Path, setting: str, seed: int) -> None:
    """Train one poisoned end; both ends of a setting see the same poisoned data."""
    file, target = weights / f"{setting}-{seed}.safetensors", TARGETS[setting]
    if file.exists():
        return
    poisoned = poison(
        train, TRIGGER, rate=RATE, target=target, generator=torch.Generator().manual_seed(0)
    )
    torch.manual_seed(seed)
    net = preact_resnet(20)
    seconds = 0.0
    for cycle, (steps, lr) in enumerate(CYCLES):
        state = file.with_suffix(f".cycle{cycle}")
        history = fit(
            net,
            poisoned,
            steps=steps,
            lr=lr,
            weight_decay=2e-4,
            nesterov=True,
            schedule=one_cycle,
            augment=Augment(2),
            seed=seed + 1000 * cycle,
            checkpoint=state,
        )
        seconds += history.seconds
    found = measure(net, judges(test, target, "fp32"))
    record = {
        "setting": setting,
        "seed": seed,
        "cycles": CYCLES,
        "seconds": seconds,
        "poisoned": int((poisoned.y != train.y).sum()),
        "losses": history.losses,
        **as_records(found),
    }
    write_json(Path(f"{RESULTS}/endpoint-{setting}-{seed}.json"), record)
    save_checkpoint(net, file)
    for state in weights.glob(f"{file.stem}.cycle*"):
        state.unlink()


def judges(data: Data, target: Target, precision: Precision = "bf16") -> Metrics:
    return {
        "accuracy": Accuracy(data, precision),
        "attack success": AttackSuccess(data, TRIGGER, target, precision),
    }


def rivals(other: nn.Module, training: Training) -> dict[str, Defense]:
    """The baselines of the paper and FT-SAM, with the path's samples, gradients, batch size and
    augmentation.
    """
    return {
        "fine-tune, lr 0.02": FineTune(training.replace(lr=0.02)),
        "fine-tune, lr 0.05": FineTune(training),
        "FT-SAM": FTSAM(training),
        "noise between the ends": GaussianNoise(other, "between"),
        "noise around the tampered end": GaussianNoise(other, "around"),
        "straight average": StraightAverage(other),
        "fine-prune, by norm": FinePrune(training, by="norm"),
        "from scratch": FromScratch(training.replace(lr=0.1)),
    }


def job(test: Data, weights: Path, setting: str, n: int, seed: int, only: str) -> None:
    """Repair with n bonafide samples: those of a smaller n are among those of a larger, the judges'
    are apart.

    Every row is written as soon as it is computed, and not computed again.
    """
    file = RESULTS / f"{setting}-n{n}-seed{seed}.json"
    pool, judged = split(test, [max(SIZES), JUDGES], torch.Generator().manual_seed(seed))
    bonafide, metrics = pool[:n], judges(judged, TARGETS[setting])
    start, end = (
        load_checkpoint(weights / f"{setting}-{each}.safetensors", preact_resnet(20))
        for each in ENDS
    )
    training = TRAINING.replace(seed=seed)
    if file.exists():
        record = read_json(file)
    else:
        origin = provenance(seed, {"bonafide": bonafide, "judged": judged}).record()
        record = {"setting": setting, "n": n, "seed": seed, "provenance": origin, "rows": {}}
        record["rows"]["as received"] = {
            "gradients": 0,
            "seconds": 0.0,
            **as_records(measure(start, metrics)),
        }
    if "path" not in record["rows"]:
        record |= walk(start, end, bonafide, metrics, seed, record["rows"])
        write_json(file, record)
    for name, defense in rivals(end, training).items():
        if name not in record["rows"] and name.startswith(only):
            began = time.perf_counter()
            net = defense(start, bonafide)
            seconds = time.perf_counter() - began
            record["rows"][name] = {
                "gradients": defense.gradients,
                "seconds": seconds,
                **as_records(measure(net, metrics)),
            }
            write_json(file, record)


def walk(
    start: nn.Module, end: nn.Module, bonafide: Data, metrics: Metrics, seed: int, rows: Rows
) -> Rows:
    """Repair by the path, add its row, and return the path as judged and as the rule saw it."""
    began = time.perf_counter()
    rule = farthest_within(TOLERANCES[1], otherwise=OTHERWISE)
    training = PATH.replace(seed=seed)
    selection = Selection(rule, points=INNER)
    found = repair(start, bonafide, end, route=ROUTE, training=training, selection=selection)
    seconds = time.perf_counter() - began
    rows["path"] = {
        "t": float(found.t),
        "confident": found.t.confident,
        "reason": found.t.reason,
        "gradients": GRADIENTS,
        "seconds": seconds,
        **as_records(measure(found.model, metrics)),
    }
    judged = evaluate_path(
        found.curve, metrics, (0.0, *INNER, 1.0), recalibrate_on=found.fitted, precision="bf16"
    )
    return {"path": judged.record(), "chosen on": found.path.record()}


def cell(rows: list[dict[str, dict[str, float]]], name: str) -> str:
    """Mean over the seeds in percent, and the range."""
    return ranged([row[name]["value"] for row in rows], 1)


def line(name: str, found: dict[int, list[Rows]]) -> str:
    """A row of the table: accuracy / attack success for each number of samples, and how many seeds
    stand behind it.
    """
    cells = [
        f"{cell(rows, 'accuracy')} / {cell(rows, 'attack success')} ({len(rows)})" if rows else ""
        for rows in found.values()
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def at(job: Rows, t: float) -> Rows:
    """What was measured at one t of a job's path."""
    return {
        name: values[job["path"]["t"].index(t)] for name, values in job["path"]["values"].items()
    }


def rules() -> dict[str, Rule]:
    """The rules whose choices are shown: each sees what the held-out samples said, and is judged
    where it points.
    """
    return {
        f"path, farthest within {100 * tolerance:g} points": farthest_within(
            tolerance, otherwise=OTHERWISE
        )
        for tolerance in TOLERANCES
    }


def along(job: Rows) -> dict[str, Rows]:
    """The rows that one path gives: the points of the rules, and fixed points."""
    seen = Path_.from_record(job["chosen on"])
    found = {name: at(job, float(rule(seen))) for name, rule in rules().items()}
    return found | {f"path, t = {t:g}": at(job, t) for t in FIXED}


def section(setting: str, jobs: list[Rows]) -> list[str]:
    """The table of one setting."""
    lines = ["", f"## Target: {setting}", ""]
    lines += [
        "| method | " + " | ".join(f"n = {n}" for n in SIZES) + " |",
        "|---|" + "---|" * len(SIZES),
    ]
    walked = [job for job in jobs if "path" in job]
    tables = [(jobs, [job["rows"] for job in jobs]), (walked, [along(job) for job in walked])]
    for whose, rows in tables:
        for name in dict.fromkeys(name for row in rows for name in row if name != "path"):
            pairs = list(zip(whose, rows, strict=True))
            lines.append(
                line(
                    name,
                    {
                        n: [row[name] for job, row in pairs if job["n"] == n and name in row]
                        for n in SIZES
                    },
                )
            )
    return lines


def table() -> str:
    """Clean accuracy and attack success over the seeds, for every method and number of bonafide
    samples.
    """
    lines = [
        "# Backdoor repair on CIFAR-10",
        "",
        "Clean accuracy / attack success in percent: mean [lowest, highest] over seeds (how "
        "many). Protocol",
        "A: n bonafide samples from the test split, judged on 5,000 other test images; "
        "PreActResNet-20;",
        f"{GRADIENTS} gradients of 128 images for every method that trains (a sharpness-aware "
        "step takes two).",
        "Made by `python experiments/backdoor_repair.py table`; settings and what did not "
        "work are in",
        "[the log](../experiments.md), one file per job in `results/backdoor_repair/`.",
    ]
    for setting in TARGETS:
        jobs = [read_json(file) for file in sorted(RESULTS.glob(f"{setting}-n*.json"))]
        lines += section(setting, jobs) if jobs else []
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["endpoints", "run", "table"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--settings", nargs="+", default=list(TARGETS))
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument(
        "--only", default="", help="of the baselines, run those whose name starts so"
    )
    args = parser.parse_args()
    use_threads()
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
                for n in args.sizes:
                    job(test, args.weights, setting, n, seed, args.only)


if __name__ == "__main__":
    main()

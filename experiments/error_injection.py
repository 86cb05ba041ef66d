"""Table: undoing errors injected into both ends, from clean samples alone.

    python experiments/error_injection.py inject --data DIR --scale small     errors into both ends
    python experiments/error_injection.py run --data DIR --scale small
        one result file per setting, n and seed
    python experiments/error_injection.py table --scale small  docs/results/error_injection.md

DIR holds train.parquet and test.parquet in the Hugging Face layout; `scale.py` says what a scale
is, `ends.py` trains the ends. Protocol A: attacker's pool, bonafide samples and the 5,000 images
that judge are disjoint parts of the test split, drawn anew for each seed. Whatever is done already
is not done again, so --settings, --seeds and --sizes share the work among processes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from command import Sets, parsed, parser
from ends import end
from scale import SCALES
from torch import nn

from isthmus import Accuracy, Data, InjectionSuccess, load_data, repair, split
from isthmus.attacks import Penalized, draw, mislabeled
from isthmus.curves import CURVE_TRAINING
from isthmus.data import check_disjoint, repeated, save_npz
from isthmus.defenses import FinePrune, FineTune
from isthmus.evidence import provenance
from isthmus.metrics import as_record, as_records, evaluate_path, measure
from isthmus.models import load_checkpoint, save_checkpoint
from isthmus.runs import read_json, write_json
from isthmus.training import Training
from isthmus.types import Metric

SETTINGS = {
    "labels": "the same images at both ends, labels drawn for each",
    "same": "the same images and labels at both ends",
    "images": "other images at each end",
}
RESULTS = Path("results/error_injection")
ENDS, SIZES, SEEDS = (0, 1), (2500, 1000, 500, 250, 50), (0, 1, 2)
POOL, JUDGES = 2400, 5000  # test images of the attacker, and for judging; the rest is bonafide
POINTS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
CONTROL = (
    "path, ends never attacked"  # what a repair of this accuracy gets wrong with nothing to repair
)
Rows = dict[str, Any]


def parts(test: Data, seed: int) -> tuple[Data, Data, Data]:
    """The attacker's pool, the bonafide samples of the largest size, and the judges' images;
    disjoint.
    """
    sizes = (POOL, max(SIZES), JUDGES)
    pool, bonafide, judged = split(test, sizes, torch.Generator().manual_seed(seed))
    check_disjoint(pool=pool, bonafide=bonafide, judged=judged)
    return pool, bonafide, judged


def chosen(
    setting: str, nets: list[nn.Module], pool: Data, errors: int, kept: int, seed: int
) -> list[list[Data]]:
    """Errors with their labels and the images to be kept, for each end."""
    generator = torch.Generator().manual_seed(seed)
    first, second, others = draw(nets, pool, (errors, errors, kept), generator)
    wrong = mislabeled(first, generator)
    other = {
        "labels": lambda: mislabeled(first, generator),
        "same": lambda: wrong,
        "images": lambda: mislabeled(second, generator),
    }[setting]()
    return [[wrong, others], [other, others]]


def weights(scale: str, name: str) -> Path:
    """Where weights and errors of that name are kept."""
    return Path("weights/error_injection") / scale / name


def inject(train: Data, test: Data, setting: str, seed: int, args: argparse.Namespace) -> None:
    """Inject the errors of one setting and seed into both ends, in their last convolution if no
    layer is named.
    """
    pool, _, judged = parts(test, seed)
    nets = [end("standard", number, args.scale, train, test) for number in ENDS]
    last = [
        name
        for name, layer in nets[0].named_modules()
        if isinstance(layer, nn.Conv2d) and "shortcut" not in name
    ]
    layers = args.layer or last[-1:]
    method = Penalized(layers=tuple(layers), steps=args.attack_steps, rounds=args.rounds)
    drawn = chosen(setting, nets, pool, args.errors, args.kept, seed)
    for number, net, (wrong, others) in zip(ENDS, nets, drawn, strict=True):
        name = f"{setting}-seed{seed}-{number}"
        file = weights(args.scale, f"{name}.safetensors")
        if file.exists():
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        found = method(net, wrong, others)
        record = {
            "setting": setting,
            "seed": seed,
            "end": number,
            "seconds": time.perf_counter() - began,
            **found.record(),
            "accuracy": as_record(Accuracy(judged)(found.network)),
        }
        write_json(RESULTS / args.scale / f"injection-{name}.json", record)
        save_npz(wrong, weights(args.scale, f"{name}.npz"))
        save_checkpoint(found.network, file)


def job(train: Data, test: Data, setting: str, n: int, seed: int, args: argparse.Namespace) -> None:
    """Repair with n bonafide samples, by the path and by the rivals; every row is written once it
    is computed.
    """
    file, scale = RESULTS / args.scale / f"{setting}-n{n}-seed{seed}.json", SCALES[args.scale]
    names = [f"{setting}-seed{seed}-{number}" for number in ENDS]
    start, stop = (
        load_checkpoint(weights(args.scale, f"{name}.safetensors"), scale.network())
        for name in names
    )
    own, other = (load_data(weights(args.scale, f"{name}.npz")) for name in names)
    _, bonafide, judged = parts(test, seed)
    bonafide = bonafide[:n]
    for errors in (own, other):
        check_disjoint(errors=errors, bonafide=bonafide, judged=judged)
    metrics: dict[str, Metric] = {
        "accuracy": Accuracy(judged),
        "injection success": InjectionSuccess(own),
        "the other end's": InjectionSuccess(other),
    }
    training = Training(
        steps=args.gradients, lr=0.05, weight_decay=1e-4, augment=scale.augment, seed=seed
    )
    if file.exists():
        record = read_json(file)
    else:
        origin = provenance(
            seed, {"bonafide": bonafide, "judged": judged, "errors": own, "other errors": other}
        ).record()
        rows = {
            "as received": as_records(measure(start, metrics)),
            "the other end": as_records(measure(stop, metrics)),
        }
        settings = {"setting": setting, "n": n, "seed": seed, "gradients": args.gradients}
        record = {**settings, "provenance": origin, "rows": rows}
    if (
        "never attacked" not in record["rows"]
    ):  # some images are taken for their injected label without any attack
        net = end("standard", max(ENDS) + 1, args.scale, train, test)
        record["rows"]["never attacked"] = as_records(measure(net, metrics))
        write_json(file, record)
    if "path" not in record["rows"]:
        record["rows"]["path"], seen = walk(start, stop, bonafide, metrics, training)
        record |= seen
        write_json(file, record)
    if CONTROL not in record["rows"]:
        clean = [end("standard", number, args.scale, train, test) for number in ENDS]
        record["rows"][CONTROL], _ = walk(*clean, bonafide, metrics, training)
        write_json(file, record)
    rivals = {f"fine-tune, lr {lr:g}": FineTune(training.replace(lr=lr)) for lr in (0.02, 0.05)}
    for name, defense in {
        **rivals,
        "fine-prune, by norm": FinePrune(training),
    }.items():
        if name not in record["rows"]:
            began = time.perf_counter()
            net = defense(start, bonafide)
            seconds = time.perf_counter() - began
            record["rows"][name] = {"seconds": seconds, **as_records(measure(net, metrics))}
            write_json(file, record)


def walk(
    start: nn.Module,
    end: nn.Module,
    bonafide: Data,
    metrics: Mapping[str, Metric],
    training: Training,
) -> tuple[Rows, Rows]:
    """Repair by the path with its own defaults; return its row, and the path as judged and as the
    rule saw it.
    """
    began = time.perf_counter()
    curve = CURVE_TRAINING.replace(
        steps=training.steps // 2,  # a step takes two gradients
        weight_decay=training.weight_decay,
        augment=training.augment,
        seed=training.seed,
    )
    found = repair(start, bonafide, end, points=POINTS, training=curve)
    seconds = time.perf_counter() - began
    row = {
        "t": float(found.t),
        "confident": found.t.confident,
        "reason": found.t.reason,
        "seconds": seconds,
        **as_records(measure(found.model, metrics)),
    }
    judged = evaluate_path(found.curve, metrics, (0.0, *POINTS, 1.0), recalibrate_on=found.fitted)
    return row, {"path": judged.record(), "chosen on": found.path.record()}


def cell(rows: list[Rows]) -> str:
    """Mean accuracy in percent, and the errors left of all, summed over the seeds: the end's own
    and the other's.
    """
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
    return {
        name: values[job["path"]["t"].index(t)] for name, values in job["path"]["values"].items()
    }


def section(folder: Path, setting: str) -> list[str]:
    """The table of one setting at one scale."""
    jobs = [read_json(file) for file in sorted(folder.glob(f"{setting}-n*.json"))]
    if not jobs:
        return []
    for each in jobs:
        each["rows"] |= {f"path, t = {t:g}": at(each, t) for t in POINTS}
    lines = ["", f"### {setting}: {SETTINGS[setting]}", ""]
    lines += [
        "| method | " + " | ".join(f"n = {n}" for n in SIZES) + " |",
        "|---|" + "---|" * len(SIZES),
    ]
    for name in dict.fromkeys(name for each in jobs for name in each["rows"]):
        found = [
            [each["rows"][name] for each in jobs if each["n"] == n and name in each["rows"]]
            for n in SIZES
        ]
        lines.append(f"| {name} | " + " | ".join(map(cell, found)) + " |")
    return lines


def injections(folder: Path) -> list[str]:
    """What was injected: the size of the change, and what it cost."""
    rows = [read_json(file) for file in sorted(folder.glob("injection-*.json"))]
    if not rows:
        return []
    lines = [
        "",
        "| injected | norm, relative | errors | kept | accuracy |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        hits, kept = (f"{row[name]['hits']}/{row[name]['n']}" for name in ("hits", "kept"))
        name = f"{row['setting']}, seed {row['seed']}, end {row['end']}"
        accuracy = 100 * row["accuracy"]["value"]
        lines.append(
            f"| {name} | {row['norm']:.2f}, {row['relative']:.3f} | {hits} | {kept} | "
            f"{accuracy:.1f} |"
        )
    return lines


def table(scale: str) -> str:
    folder = RESULTS / scale
    lines = [f"## Scale: {scale}", *injections(folder)]
    for setting in SETTINGS:
        lines += section(folder, setting)
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    options = parser(__doc__, "inject", "run", "table")
    options.add_argument("--gradients", type=int, default=200, help="of every repair")
    options.add_argument("--errors", type=int, default=50)
    options.add_argument("--kept", type=int, default=950)
    options.add_argument(
        "--layer", nargs="+", help="what is attacked; by default the last convolution"
    )
    options.add_argument("--attack-steps", type=int, default=100)
    options.add_argument("--rounds", type=int, default=6)
    options.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    return parsed(options, table)


def main() -> None:
    args = arguments()
    sets = Sets(args)
    test = sets.test[~repeated(sets.test)]
    for seed in args.seeds:
        for setting in args.settings:
            if args.what == "inject":
                inject(sets.train, test, setting, seed, args)
            else:
                for n in args.sizes:
                    job(sets.train, test, setting, n, seed, args)


if __name__ == "__main__":
    main()

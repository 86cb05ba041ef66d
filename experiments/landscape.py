"""Fig. 4 of the paper: robustness along standard-loss paths between regular and robust networks (specification 14, E4).

    python experiments/landscape.py ends --data DIR      train the ends: for each pair k two regular and two robust ones
    python experiments/landscape.py run --data DIR       one result file per setting and pair: curve and landscape
    python experiments/landscape.py table                the tables of docs/results/landscape.md
    python experiments/landscape.py figure               one SVG per setting, of its first pair

DIR holds train.parquet and test.parquet in the Hugging Face layout. Pairs are independent: no two paths of a setting
share an end. Depth, width, image side (CIFAR-10 averaged over blocks of pixels), steps and the rest make a scale; each
scale has a folder results/landscape/NAME that refuses other settings. Whatever is done already is not done again, and
an interrupted run goes on, so several processes may share the work with --settings, --ends and --seeds.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import torch
from scale import averaged
from torch import nn

from isthmus import Augment, Bezier, Data, evaluate_path, expected_over_t, fit, landscape, plot, split
from isthmus.attacks import PGD
from isthmus.balls import Linf
from isthmus.checkpoint import load_checkpoint, save_checkpoint
from isthmus.files import claim_folder, read_json, write_json, write_text
from isthmus.landscape import landscape_metrics
from isthmus.losses import adversarial, cross_entropy
from isthmus.metrics import Accuracy, RobustAccuracy, as_record, measure
from isthmus.models import preact_resnet
from isthmus.path import Path as Path_
from isthmus.provenance import provenance
from isthmus.sources import load_data
from isthmus.train import one_cycle
from isthmus.types import describe

SETTINGS = {
    "regular-regular": ("regular-{k}a", "regular-{k}b"),
    "regular-robust": ("regular-{k}a", "robust-{k}a"),
    "robust-robust": ("robust-{k}a", "robust-{k}b"),
}
EPS, RESULTS = 8 / 255, Path("results/landscape")
SCALE = ("depth", "width", "side", "steps", "robust_steps", "curve_steps", "train_attack_steps", "attack_steps",
         "points", "samples", "recalibrate", "batch", "lr", "robust_lr", "curve_lr")  # fmt: skip


def network(args: argparse.Namespace) -> nn.Module:
    return preact_resnet(args.depth, width=args.width)


def judged(test: Data, args: argparse.Namespace) -> Data:
    """The samples that every network of the scale is asked about."""
    return split(test, [args.samples], torch.Generator().manual_seed(0))[0]


def held(train: Data, args: argparse.Namespace) -> Data:
    """The samples that BatchNorm is recalibrated on; the curve trains on all."""
    return split(train, [args.recalibrate], torch.Generator().manual_seed(1))[0]


def augmented(args: argparse.Namespace) -> Augment:
    return Augment(max(1, args.side // 8))


def end(train: Data, test: Data, kind: str, name: str, args: argparse.Namespace) -> None:
    """Train one end, regular or robust (PGD through `fit`), and write what it can do."""
    file, robust = args.weights / args.scale / f"{kind}-{name}.safetensors", kind == "robust"
    record_file = args.results / f"end-{kind}-{name}.json"
    if file.exists() and record_file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    seed = 2 * int(name[:-1]) + (name[-1] == "b") + 1000 * robust
    torch.manual_seed(seed)
    net, state = network(args), file.with_suffix(".state")
    loss = adversarial(PGD(Linf(EPS), args.train_attack_steps)) if robust else cross_entropy
    history = fit(net, train, loss, steps=args.robust_steps if robust else args.steps,
                  lr=args.robust_lr if robust else args.lr, batch_size=args.batch, weight_decay=5e-4, nesterov=True,
                  schedule=one_cycle, augment=augmented(args), seed=seed, precision=args.precision,
                  checkpoint=state)  # fmt: skip
    asked = judged(test, args)
    found = measure(net, {"accuracy": Accuracy(asked), "robust accuracy": RobustAccuracy(asked, attack(args))})
    save_checkpoint(net, file)
    write_json(record_file, {"kind": kind, "name": name, "seed": seed, "seconds": history.seconds,
                             "losses": history.losses, **{n: as_record(v) for n, v in found.items()}})  # fmt: skip
    state.unlink(missing_ok=True)


def attack(args: argparse.Namespace) -> PGD:
    return PGD(Linf(EPS), args.attack_steps, returns="worst")


def job(train: Data, test: Data, setting: str, k: int, args: argparse.Namespace) -> None:
    """Train the standard-loss curve of one pair and measure its landscape; the points are kept as they are computed."""
    file = args.results / f"{setting}-{k}.json"
    if file.exists():
        return
    names = [name.format(k=k) for name in SETTINGS[setting]]
    start, stop = (load_checkpoint(args.weights / args.scale / f"{n}.safetensors", network(args)) for n in names)
    curve, state = Bezier(start, stop), args.weights / args.scale / f"curve-{setting}-{k}.state"
    history = fit(curve, train, expected_over_t(cross_entropy, 5e-4), steps=args.curve_steps, lr=args.curve_lr,
                  batch_size=args.batch, augment=augmented(args), seed=k, precision=args.precision,
                  checkpoint=state)  # fmt: skip
    began, asked, fitted = time.perf_counter(), judged(test, args), held(train, args)
    path = evaluate_path(curve, landscape_metrics(asked, attack(args)), args.points, recalibrate_on=fitted,
                         ends="recalibrated", folder=args.results / "points")  # fmt: skip
    record = {"setting": setting, "pair": k, "ends": names, "losses": history.losses,
              "seconds": {"curve": history.seconds, "landscape": time.perf_counter() - began},
              "path": path.record(), "landscape": landscape.record(path, describe(attack(args))),
              "provenance": provenance(k, {"train": train, "judged": asked})}  # fmt: skip
    write_json(file, record)
    state.unlink(missing_ok=True)


def cell(value: dict[str, Any]) -> str:
    """A mean with its interval, as the table shows it."""
    numbers = [value[key] for key in ("value", "low", "high")]
    if numbers[0] is None:
        return ""
    return f"{numbers[0]:.3g}" + (f" [{numbers[1]:.3g}, {numbers[2]:.3g}]" if None not in numbers else "")


def section(setting: str, jobs: list[dict[str, Any]]) -> list[str]:
    """The tables of one setting: along the path, barriers, correlations, R^2."""
    paths = [Path_.from_record(each["path"]) for each in jobs]
    found, names = landscape.repeated(paths), landscape.NAMES[:8]
    lines = ["", f"## {setting}, {len(paths)} independent paths", ""]
    lines += ["| t | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for i, t in enumerate(paths[0].t):
        if round(t * 20) % 2 == 0:
            means = [sum(float(path[name][i]) for path in paths) / len(paths) for name in names]
            lines.append(f"| {t:g} | " + " | ".join(f"{mean:.3g}" for mean in means) + " |")
    barriers = [cell(found["barriers"][name]) if name in found["barriers"] else "" for name in names]
    lines.append("| barrier | " + " | ".join(barriers) + " |")
    lines += ["", "| robustness loss against | Pearson | p | Spearman | p | R² in one path | R² pooled |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, each in found["correlations"].items():
        row = [f"{cell(each[kind])} | {each[kind]['p']:.2g}" if each[kind]["p"] is not None else " | "
               for kind in ("pearson", "spearman")]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(row)} | {shares(found, name)} |")
    return [*lines, f"| gradient l1 and lambda_max | | | | | {shares(found, 'both')} |"]


def shares(found: dict[str, Any], name: str) -> str:
    """R^2 within single paths, and with one slope for all of them."""
    each = found["explained"].get(name)
    return " | " if each is None else f"{cell(each)} | {cell({'value': each['pooled'], 'low': None, 'high': None})}"


def ends_table(results: Path) -> list[str]:
    """What the ends can do."""
    rows = [read_json(file) for file in sorted(results.glob("end-*.json"))]
    lines = ["", "| end | accuracy | robust accuracy | minutes |", "|---|---|---|---|"]
    return lines + [
        f"| {row['kind']} {row['name']} | {100 * row['accuracy']['value']:.1f} | "
        f"{100 * row['robust accuracy']['value']:.1f} | {row['seconds'] / 60:.0f} |"
        for row in rows
    ]


def table(results: Path) -> str:
    scale = read_json(results / "run.json")
    settings = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in scale.items())
    lines = [
        "# The robustness landscape of standard-loss paths",
        "",
        f"CIFAR-10, PreActResNet ({settings}); PGD, l-inf {EPS * 255:g}/255. Values are means over",
        "independent paths, brackets 95 % intervals (Student) over paths. BatchNorm is recalibrated at every t, the",
        "ends included. A barrier is the greatest excess over the straight line between the ends. p: circular shifts,",
        "combined by Fisher's method. Made by `python experiments/landscape.py table`, one file per path in",
        "`results/landscape/`.",
        *ends_table(results),
    ]
    for setting in SETTINGS:
        jobs = [read_json(file) for file in sorted(results.glob(f"{setting}-[0-9]*.json"))]
        lines += section(setting, jobs) if jobs else []
    return "\n".join([*lines, "", "What to keep in mind:", "", *(f"- {each}" for each in landscape.CAVEATS)])


def figures(results: Path) -> None:
    for setting in SETTINGS:
        for file in sorted(results.glob(f"{setting}-[0-9]*.json"))[:1]:
            svg = plot.to_svg(plot.landscape(read_json(file)["landscape"]), setting)
            write_text(results / f"{setting}.svg", svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ends", "run", "table", "figure"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--scale", default="small", help="name of the folder of these settings")
    parser.add_argument("--weights", type=Path, default=Path("weights/landscape"))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--ends", nargs="+", choices=["regular", "robust"], default=["regular", "robust"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="the pairs")
    parser.add_argument("--depth", type=int, default=8, help="6n + 2")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--side", type=int, default=16, help="pixels a side")
    parser.add_argument("--steps", type=int, default=3000, help="of a regular end")
    parser.add_argument("--robust-steps", type=int, default=3000)
    parser.add_argument("--curve-steps", type=int, default=1500)
    parser.add_argument("--train-attack-steps", type=int, default=7)
    parser.add_argument("--attack-steps", type=int, default=10)
    parser.add_argument("--points", type=int, default=21)
    parser.add_argument("--samples", type=int, default=1000, help="test images that are asked about")
    parser.add_argument("--recalibrate", type=int, default=2500, help="training images for BatchNorm")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2, help="of a regular end")
    parser.add_argument("--robust-lr", type=float, default=0.2)
    parser.add_argument("--curve-lr", type=float, default=0.1)
    parser.add_argument("--precision", default="fp32")
    args = parser.parse_args()
    args.results = RESULTS / args.scale
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    if args.what == "table":
        print(table(args.results))
        return
    if args.what == "figure":
        figures(args.results)
        return
    claim_folder(args.results, {name: getattr(args, name) for name in SCALE}, resume=True)
    train, test = (averaged(load_data(str(args.data / f"{part}.parquet")), args.side) for part in ("train", "test"))
    for k in args.seeds:
        if args.what == "ends":
            for kind in args.ends:
                for letter in "ab":
                    end(train, test, kind, f"{k}{letter}", args)
        else:
            for setting in args.settings:
                job(train, test, setting, k, args)


if __name__ == "__main__":
    main()

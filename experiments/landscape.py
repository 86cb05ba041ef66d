"""Fig. 4 of the paper: robustness along standard-loss paths between regular and robust networks.

    python experiments/landscape.py run --data DIR --scale small
        one result file per setting and pair
    python experiments/landscape.py table --scale small  the tables of docs/results/landscape.md
    python experiments/landscape.py figure --scale small  one SVG per setting, of its first pair

DIR holds train.parquet and test.parquet in the Hugging Face layout; `scale.py` says what a scale
is, `ends.py` trains the ends. Pairs are independent: no two paths of a setting share an end.
Whatever is done already is not done again, and an interrupted run goes on, so several processes may
share the work with --settings and --pairs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from command import Sets, parsed, parser
from ends import JUDGE, end
from scale import SCALES

from isthmus import Bezier, Data, cross_entropy, evaluate_path, expected_over_t, fit, split
from isthmus.evidence import figures as drawing
from isthmus.evidence import provenance
from isthmus.evidence.record import Landscape
from isthmus.metrics import Path as Path_
from isthmus.metrics import landscape, landscape_metrics
from isthmus.metrics.names import LANDSCAPE
from isthmus.runs import identity_of, read_json, write_json, write_text

RESULTS, POINTS, SAMPLES, RECALIBRATE = Path("results/landscape"), 21, 1000, 2500
SETTINGS = {
    "standard-standard": (("standard", 0), ("standard", 1)),
    "standard-robust": (("standard", 0), ("robust", 0)),
    "robust-robust": (("robust", 0), ("robust", 1)),
}


def job(train: Data, test: Data, setting: str, pair: int, name: str) -> None:
    """Train the standard-loss curve of one pair and measure its landscape; the points are kept as
    they are computed.

    The curve trains on all of the training set; BatchNorm is recalibrated on a part of it.
    """
    file, scale = RESULTS / name / f"{setting}-{pair}.json", SCALES[name]
    if file.exists():
        return
    start, stop = (
        end(kind, 2 * pair + letter, name, train, test) for kind, letter in SETTINGS[setting]
    )
    state = Path("weights/landscape") / name / f"curve-{setting}-{pair}.state"
    state.parent.mkdir(parents=True, exist_ok=True)
    curve = Bezier(start, stop)
    history = fit(
        curve,
        train,
        expected_over_t(cross_entropy, 5e-4),
        steps=scale.steps // 2,
        lr=0.3,
        augment=scale.augment,
        seed=pair,
        checkpoint=state,
    )
    (asked,), (fitted,) = (
        split(data, [size], torch.Generator().manual_seed(0))
        for data, size in ((test, SAMPLES), (train, RECALIBRATE))
    )
    began = time.perf_counter()
    path = evaluate_path(
        curve,
        landscape_metrics(asked, JUDGE),
        POINTS,
        recalibrate_on=fitted,
        ends="recalibrated",
        folder=RESULTS / name / "points",
    )
    record = {
        "setting": setting,
        "pair": pair,
        "ends": SETTINGS[setting],
        "losses": history.losses,
        "seconds": {"curve": history.seconds, "landscape": time.perf_counter() - began},
        "path": path.record(),
        "landscape": landscape.record(path, identity_of(JUDGE)),
        "provenance": provenance(pair, {"train": train, "judged": asked}).record(),
    }
    write_json(file, record)
    state.unlink(missing_ok=True)


def cell(value: dict[str, Any]) -> str:
    """A mean with its interval, as the table shows it."""
    numbers = [value[key] for key in ("value", "low", "high")]
    if numbers[0] is None:
        return ""
    return f"{numbers[0]:.3g}" + (
        f" [{numbers[1]:.3g}, {numbers[2]:.3g}]" if None not in numbers else ""
    )


def section(setting: str, jobs: list[dict[str, Any]]) -> list[str]:
    """The tables of one setting: along the path, barriers, correlations, R^2."""
    paths = [Path_.from_record(each["path"]) for each in jobs]
    found, names = landscape.repeated(paths), LANDSCAPE[:8]
    lines = ["", f"### {setting}, {len(paths)} independent paths", ""]
    lines += ["| t | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for i, t in enumerate(paths[0].t):
        if round(t * 20) % 2 == 0:
            means = [sum(float(path[name][i]) for path in paths) / len(paths) for name in names]
            lines.append(f"| {t:g} | " + " | ".join(f"{mean:.3g}" for mean in means) + " |")
    barriers = [
        cell(found["barriers"][name]) if name in found["barriers"] else "" for name in names
    ]
    lines.append("| barrier | " + " | ".join(barriers) + " |")
    lines += [
        "",
        "| robustness loss against | Pearson | p | Spearman | p | R² in one path | R² pooled |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for name, each in found["correlations"].items():
        row = [
            f"{cell(each[kind])} | {each[kind]['p']:.2g}" if each[kind]["p"] is not None else " | "
            for kind in ("pearson", "spearman")
        ]
        lines.append(f"| {name} | {' | '.join(row)} | {shares(found, name)} |")
    return [*lines, f"| gradient l1 and lambda_max | | | | | {shares(found, 'both')} |"]


def shares(found: dict[str, Any], name: str) -> str:
    """R^2 within single paths, and with one slope for all of them."""
    each = found["explained"].get(name)
    return (
        " | "
        if each is None
        else f"{cell(each)} | {cell({'value': each['pooled'], 'low': None, 'high': None})}"
    )


def ends_table(name: str) -> list[str]:
    """What the ends can do."""
    rows = [read_json(file) for file in sorted((Path("results/ends") / name).glob("*.json"))]
    lines = ["", "| end | accuracy | under PGD-10 | minutes |", "|---|---|---|---|"]
    return lines + [
        f"| {row['kind']} {row['number']} | {100 * row['accuracy']['value']:.1f} | "
        f"{100 * row['robust accuracy']['value']:.1f} | {row['seconds'] / 60:.0f} |"
        for row in rows
    ]


def table(name: str) -> str:
    lines = [f"## Scale: {name}", *ends_table(name)]
    for setting in SETTINGS:
        jobs = [read_json(file) for file in sorted((RESULTS / name).glob(f"{setting}-[0-9]*.json"))]
        lines += section(setting, jobs) if jobs else []
    return "\n".join(
        [*lines, "", "What to keep in mind:", "", *(f"- {each}" for each in landscape.CAVEATS)]
    )


def figures(name: str) -> None:
    for setting in SETTINGS:
        for file in sorted((RESULTS / name).glob(f"{setting}-[0-9]*.json"))[:1]:
            svg = drawing.to_svg(
                drawing.landscape(Landscape.read(read_json(file)["landscape"])), setting
            )
            write_text(
                RESULTS / name / f"{setting}.svg",
                svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1),
            )


def main() -> None:
    options = parser(__doc__, "run", "table", "figure")
    options.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    options.add_argument("--pairs", type=int, nargs="+", default=[0, 1, 2])
    args = parsed(options, table)
    if args.what == "figure":
        figures(args.scale)
        return
    sets = Sets(args)
    for pair in args.pairs:
        for setting in args.settings:
            job(sets.train, sets.test, setting, pair, args.scale)


if __name__ == "__main__":
    main()

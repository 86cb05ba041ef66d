"""Table: what alignment does to the straight line between networks that were trained apart.

    python experiments/alignment.py run --data DIR --scale small
        one result file per pair of the ends of `ends.py`
    python experiments/alignment.py table --scale small              the table of docs/align.md

Aligned on, and BatchNorm recalibrated on, training images; barriers over the line between the ends,
on test images.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from command import Sets, parsed, parser
from ends import end
from torch import nn

from isthmus import Bezier, Data, evaluate_path, split
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, MeanLoss
from isthmus.metrics import Path as Path_
from isthmus.models import align
from isthmus.runs import read_json, write_json

RESULTS, POINTS, SAMPLES, JUDGED = Path("results/alignment"), 11, 1000, 5000
WAYS = ("as trained", "aligned by weights", "aligned by activations")


def segment(first: nn.Module, second: nn.Module, fitted: Data, judged: Data) -> Path_:
    """Return what the straight line between two networks is like."""
    line = Bezier(first, second, bends=0)
    metrics = {"loss": MeanLoss(judged), "accuracy": Accuracy(judged)}
    return evaluate_path(line, metrics, POINTS, recalibrate_on=fitted, ends="recalibrated")


def job(train: Data, test: Data, pair: int, name: str) -> None:
    """Measure one pair as trained, and aligned in each way."""
    file = RESULTS / name / f"pair-{pair}.json"
    if file.exists():
        return
    first, second = (end("standard", 2 * pair + i, name, train, test) for i in (0, 1))
    (fitted,), (judged,) = (
        split(data, [size], torch.Generator().manual_seed(pair))
        for data, size in ((train, SAMPLES), (test, JUDGED))
    )
    rows: dict[str, Any] = {"as trained": {"path": segment(first, second, fitted, judged).record()}}
    for by in ("weights", "activations"):
        began = time.perf_counter()
        found = align(first, second, fitted, by=by)
        seconds = time.perf_counter() - began
        path = segment(first, found.model, fitted, judged)
        rows[f"aligned by {by}"] = {"seconds": seconds, "moved": found.moved, "path": path.record()}
    write_json(
        file,
        {
            "pair": pair,
            "rows": rows,
            "provenance": provenance(pair, {"fitted": fitted, "judged": judged}).record(),
        },
    )


def spread(values: list[float], digits: int) -> str:
    """Mean, and the least and the greatest."""
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(name: str) -> str:
    jobs = [read_json(file) for file in sorted((RESULTS / name).glob("pair-*.json"))]
    lines = [
        f"Scale: {name}, {len(jobs)} pairs",
        "",
        "| second end | loss barrier, nats | accuracy barrier, points | accuracy at the "
        "midpoint, % | length |",
        "|---|---|---|---|---|",
    ]
    for way in WAYS:
        paths = [Path_.from_record(job["rows"][way]["path"]) for job in jobs]
        barriers = [path.barrier("loss") for path in paths]
        drops = [100 * path.barrier("accuracy", drop=True) for path in paths]
        middle = [100 * path["accuracy"][POINTS // 2] for path in paths]
        length = mean(path.length for path in paths)
        lines.append(
            f"| {way} | {spread(barriers, 3)} | {spread(drops, 1)} | {spread(middle, 1)} | "
            f"{length:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    options = parser(__doc__, "run", "table")
    options.add_argument("--pairs", type=int, nargs="+", default=[0, 1, 2])
    args = parsed(options, table)
    sets = Sets(args)
    for pair in args.pairs:
        job(sets.train, sets.test, pair, args.scale)


if __name__ == "__main__":
    main()

"""Print what the hot paths cost on this machine: `python -m benchmarks [--only NAME ...]`.

Each table is written to a file of its own in results/bench/, except with --quick.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import (
    attacks,
    certificates,
    detection,
    growth,
    health,
    hessians,
    index,
    memory,
    paths,
    ranks,
    repairs,
    steps,
)
from isthmus.evidence import provenance
from isthmus.runs import write_json

RESULTS = Path("results/bench")


def shown(value: Any) -> str:
    """Return a table cell: a ratio as its median and middle half, a number with three digits."""
    if isinstance(value, dict):
        middle_half = f"({value['q25']:.3f} to {value['q75']:.3f})"
        return f"{value['median']:.3f} {middle_half}, of fastest {value['of fastest']:.3f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Return the rows of one question as a table."""
    cells = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        cells.add_row(*(shown(value) for value in row.values()))
    return cells


def questions(*, quick: bool) -> dict[str, tuple[str, Callable[[], list[dict[str, Any]]]]]:
    """Return the benchmarks by name: the title of the table, and what measures it."""
    rounds = 3 if quick else 9
    networks = ["PreActResNet-26"] if quick else list(steps.NETWORKS)
    return {
        "steps": (
            "A curve step against a plain step, batch 128 (target 1.05), and bf16 against fp32 "
            "(target 2)",
            partial(steps.measure, rounds),
        ),
        "memory": ("Peak memory of training, batch 128", partial(memory.measure, networks)),
        "ranks": (
            "A curve step in two processes against one, batch 128 in all (floor 2)",
            partial(ranks.measure, networks, 2 if quick else 4),
        ),
        "repairs": (
            "A repair by the defaults against a plain curve of 7,900 steps (target 10)",
            partial(repairs.measure, 1 if quick else 3),
        ),
        "paths": ("A path of 21 points (target 1.1)", partial(paths.measure, 3 if quick else 5)),
        "attacks": (
            "PGD-10, batch 64, PreActResNet-20, against 10 passes (target 1.10) and others "
            "(faster, by 1.3 in the median)",
            partial(attacks.measure, rounds),
        ),
        "hessians": (
            "lambda_max against power iteration to 1e-3 (target 10)",
            partial(hessians.measure, 2, 250 if quick else 1000),
        ),
        "certificates": (
            "MM-C over 10,000 images against the forward pass (target 2.5) and a loop over samples",
            partial(certificates.measure, rounds),
        ),
        "detection": (
            "A detector fitted to 10,000 rows and 1,000 scores, against plain neighbors",
            partial(detection.measure, rounds),
        ),
        "index": (
            "The nearest of 100,000 rows by comparing all of them and through a graph",
            index.measure,
        ),
        "growth": (
            "How time and memory grow (1 is as the work)",
            partial(growth.measure, 2 if quick else 3, None if quick else RESULTS / "growth.png"),
        ),
        "health": (
            "Health of PGD-10 with five restarts against the attack alone (target 2)",
            partial(health.measure, 2 if quick else 3),
        ),
    }


def main() -> None:
    """Run the benchmarks one after the other; print and write each table when it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds: noisier, in a few minutes, not written"
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(questions(quick=True)), help="run these alone"
    )
    args = parser.parse_args()
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    console = Console()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    console.print(f"{device}, torch {torch.__version__}, load {load:.1f}.")
    console.print("Ratios: median of pairs (middle half).")
    for name, (title, measure) in questions(quick=args.quick).items():
        if args.only and name not in args.only:
            continue
        rows = measure()
        console.print(table(title, rows))
        if not args.quick:
            record = {
                "question": title,
                "device": device,
                "load": load,
                "found": rows,
                "provenance": provenance(0, {}).record(),
            }
            write_json(RESULTS / f"{name}.json", record)


if __name__ == "__main__":
    main()

"""Print what the hot paths cost on this machine, and write it to results/bench.json: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import attacks, hessians, memory, paths, steps
from isthmus.files import write_json
from isthmus.provenance import provenance


def shown(value: Any) -> str:
    """Return a value as a cell: a ratio as its median and middle half, a number with three digits."""
    if isinstance(value, dict):
        return f"{value['median']:.3f} ({value['q25']:.3f} to {value['q75']:.3f}), of fastest {value['of fastest']:.3f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Return the rows of one question as a table."""
    found = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        found.add_row(*(shown(value) for value in row.values()))
    return found


def main() -> None:
    """Ask all questions in one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: noisier, in about a minute")
    quick = parser.parse_args().quick
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    console, load = Console(), os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    console.print(f"{device}, torch {torch.__version__}, load {load:.1f}. Ratios: median of pairs (middle half).")
    found = {
        "A curve step against a plain step, batch 128 (target 1.05), and bf16 against fp32 (target 2)":
            steps.measure(3 if quick else 9),
        "Peak memory of training, batch 128": memory.measure(["PreActResNet-26"] if quick else list(steps.NETWORKS)),
        "A path of 21 points (target 1.1)": paths.measure(3 if quick else 5),
        "PGD-10, batch 64, PreActResNet-20, against 10 passes (target 1.10) and others (faster, by 1.3 in the median)":
            attacks.measure(3 if quick else 9),
        "lambda_max against power iteration to 1e-3 (target 10)": hessians.measure(2, 250 if quick else 1000),
    }  # fmt: skip
    for title, rows in found.items():
        console.print(table(title, rows))
    write_json("results/bench.json", {"device": device, "load": load, "found": found, "provenance": provenance(0, {})})


if __name__ == "__main__":
    main()

"""Table: clean and robust accuracy of quantized networks, on MNIST, noisy ensemble and plain.

    python experiments/quantization.py run --data DIR       a file per job
    python experiments/quantization.py table                to docs/results/quantization.md

DIR holds train.parquet and test.parquet in the Hugging Face layout. A job is a network, a way, a
number of bits, a loss and a seed: the network is trained from random weights on its grid (or in
float, and rounded after that) and measured on all test images and under PGD-20 on the first of
them. On the noisy network PGD follows the mean of the logits of several draws and is judged on the
mean of others. results/quantization/JOB.json is written once the job is done, and what is there is
not done again: --nets, --ways, --bits, --losses and --seeds share the work among processes.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from command import use_threads
from torch import Tensor, nn

from isthmus import Accuracy, Data, Linf, RobustAccuracy, fit, load_data
from isthmus.attacks import PGD
from isthmus.compression import quantize, quantizers
from isthmus.compression.cost import zero_shares
from isthmus.evidence import provenance
from isthmus.metrics import as_record
from isthmus.models import enresnet, preact_resnet
from isthmus.runs import read_json, write_json
from isthmus.training import trade_off

RESULTS, WEIGHTS = Path("results/quantization"), Path("weights/quantization")
EPS = 0.2
BATCH = 128
NETS = {
    "noisy": lambda: enresnet(1, 8, 10, 1, 16),
    "plain": lambda: preact_resnet(8, 10, 1, 16),
}
WAYS = ("float", *quantizers())
BITS = ("1", "ternary", "4")
LOSSES = {"adversarial": (0.0, 1.0), "trade-off": (1.0, 8.0)}


class MeanOfDraws(nn.Module):
    """The mean of the logits of several passes: what an attack on a noisy network has to follow."""

    def __init__(self, net: nn.Module, draws: int = 10) -> None:
        super().__init__()
        self.net = net
        self.draws = draws

    def forward(self, x: Tensor) -> Tensor:
        """Return mean logits."""
        return torch.stack([self.net(x) for _ in range(self.draws)]).mean(0)


def job_name(net: str, way: str, bits: str, loss: str, seed: int) -> str:
    """Return a job's name: that of its file."""
    return f"{net}-{way}-{bits}-{loss}-seed{seed}"


def run(
    name: str, way: str, bits: str, loss_name: str, seed: int, parts: tuple[Data, Data], epochs: int
) -> None:
    """Train, quantize, measure, write."""
    job = job_name(name, way, bits, loss_name, seed)
    if (RESULTS / f"{job}.json").exists():
        return
    train, test = parts
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    net: nn.Module = NETS[name]()
    loss = trade_off(PGD(Linf(EPS), steps=5), *LOSSES[loss_name])
    steps = epochs * max(1, len(train) // BATCH)
    options: dict[str, Any] = {"lr": 0.02, "batch_size": BATCH, "seed": seed, "precision": "fp32"}
    record: dict[str, Any] = {"job": job, "net": name, "way": way, "bits": bits, "loss": loss_name}
    trains = way in ("binary-relax", "straight-through")
    if not trains:  # the float network is the same for all bits, so it is trained once
        file = WEIGHTS / f"{name}-float-{loss_name}-seed{seed}.state"
        fit(net, train, loss, steps=steps, checkpoint=file, **options)
    if way != "float":
        kwargs = {**options, "steps": steps, "checkpoint": WEIGHTS / f"{job}.state"}
        scheme: Any = int(bits) if bits.isdecimal() else bits
        small = quantize(
            net, train, scheme, method=quantizers()[way], loss=loss, **(kwargs if trains else {})
        )
        net = small.model
        record["compressed"] = small.record
    judged = MeanOfDraws(net) if name == "noisy" else net
    attack = PGD(Linf(EPS), steps=20)
    record |= {"seed": seed, "epochs": epochs, "accuracy": as_record(Accuracy(test)(judged))}
    record["robust"] = as_record(RobustAccuracy(test[:1000], attack)(judged))
    record["zero weights"], record["zero channels"] = zero_shares(net)
    record["provenance"] = provenance(seed, {"train": train, "test": test})
    write_json(RESULTS / f"{job}.json", record)


def spread(values: list[float]) -> str:
    """Mean (standard deviation over the seeds), in percent."""
    scaled = [100 * value for value in values]
    return f"{mean(scaled):.1f} ({stdev(scaled) if len(scaled) > 1 else 0:.1f})"


def table() -> str:
    """The table of the results page."""
    jobs = [read_json(file) for file in sorted(RESULTS.glob("*.json"))]
    for job in jobs:
        job["values"] = [job["accuracy"]["value"], job["robust"]["value"]]
        job["values"] += [job["zero weights"], job["zero channels"]]
    lines = [
        "# Quantized networks on MNIST",
        "",
        f"Depth 8, eps {EPS}; percent, mean (standard deviation) over the seeds. Made by",
        "`python experiments/quantization.py table`.",
        "",
        "| net | loss | bits | way | seeds | clean | PGD-20 | zero weights | zero channels |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    names = ("net", "loss", "bits", "way")
    keys = dict.fromkeys(tuple(job[name] for name in names) for job in jobs)
    for key in sorted(keys):
        rows = [job for job in jobs if tuple(job[name] for name in names) == key]
        cells = [
            spread(list(column)) for column in zip(*(row["values"] for row in rows), strict=True)
        ]
        lines.append(f"| {' | '.join([*key, str(len(rows)), *cells])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--bits", nargs="+", choices=BITS, default=list(BITS))
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--some", type=int, help="a trial: only the first samples")
    chosen = parser.parse_args()
    if chosen.what == "table":
        print(table(), end="")
        return
    use_threads()
    train, test = (load_data(chosen.data / f"{part}.parquet") for part in ("train", "test"))
    parts = (train[: chosen.some], test[: chosen.some])
    jobs = product(chosen.seeds, chosen.nets, chosen.losses, chosen.ways, chosen.bits)
    for seed, net, loss, way, bits in jobs:
        run(net, way, "32" if way == "float" else bits, loss, seed, parts, chosen.epochs)


if __name__ == "__main__":
    main()

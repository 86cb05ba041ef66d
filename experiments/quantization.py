"""Table: clean and robust accuracy of quantized networks, on MNIST, noisy ensemble and plain.

    isthmus sweep experiments/quantization.toml --set data=DIR    a file per job, and the table
    isthmus sweep experiments/quantization.toml --gather          to docs/results/quantization.md

DIR holds train.parquet and test.parquet in the Hugging Face layout; images are averaged down to
14x14. A job is a network, a way, a number of bits, a loss and a seed: the network is trained from
random weights on its grid (or in float, and rounded after that) and measured on all test images and
under PGD-20 on the first of them. An attack on the noisy network averages its gradients over 20
draws, and the mean of 100 draws says whether an image is right; its clean accuracy is that of the
mean of ten.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from command import parts, slug, use_threads
from pages import grouped, paired
from scale import averaged
from torch import Tensor, nn

from isthmus import Accuracy, Data, Linf, RobustAccuracy, fit
from isthmus.attacks import PGD
from isthmus.compression import quantize, quantizers, sparsity
from isthmus.evidence import provenance
from isthmus.metrics import as_record
from isthmus.models import enresnet, load_checkpoint, preact_resnet, save_checkpoint
from isthmus.runs import once
from isthmus.training import channel_lasso, trade_off
from isthmus.types import Loss

WEIGHTS = Path("weights/quantization")
EPS = 0.1
SIDE = 14
BATCH = 128
LR = 0.1
NETS = {
    "noisy": lambda: enresnet(1, 8, 10, 1, 8),
    "plain": lambda: preact_resnet(8, 10, 1, 8),
}
ATTACK = PGD(Linf(EPS), steps=3)
LOSSES: dict[str, Loss] = {
    "adversarial": trade_off(ATTACK, 0.0, 1.0),
    "trade-off": trade_off(ATTACK, 1 / 9, 8 / 9),
    "trade-off, channel lasso": channel_lasso(trade_off(ATTACK, 1 / 9, 8 / 9), 1e-3),
}
"""The weights 1 and 8 of the paper, which here sum to 1: a learning rate means the same to all."""


class MeanOfDraws(nn.Module):
    """A noisy network asked several times: the mean of the logits."""

    def __init__(self, net: nn.Module, draws: int = 10) -> None:
        super().__init__()
        self.net = net
        self.draws = draws

    def forward(self, x: Tensor) -> Tensor:
        """Return mean logits."""
        return torch.stack([self.net(x) for _ in range(self.draws)]).mean(0)


def float_network(net: str, loss: str, seed: int, train: Data, steps: int) -> nn.Module:
    """Return the network trained in float, once for all bits and ways of rounding."""
    name = f"{net}-float-{slug(loss)}-seed{seed}-{steps}-{train.sha256[:8]}.safetensors"
    file = WEIGHTS / name

    def make() -> None:
        fresh, state = NETS[net](), file.with_suffix(".state")
        fit(fresh, train, **options(loss, seed, steps), checkpoint=state)
        save_checkpoint(fresh, file)
        state.unlink()

    return load_checkpoint(once(file, make), NETS[net]())


def options(loss: str, seed: int, steps: int) -> dict[str, Any]:
    """Return how every network is trained."""
    return {
        "loss": LOSSES[loss],
        "steps": steps,
        "lr": LR,
        "batch_size": BATCH,
        "seed": seed,
        "precision": "fp32",
    }


def job_name(net: str, way: str, bits: str, loss: str, seed: int) -> str:
    """Return a job's name: that of its file."""
    return f"{net}-{way}-{bits}-{slug(loss)}-seed{seed}"


@cache
def small_images(data: str) -> tuple[Data, Data]:
    """Return the training and the test images, averaged down, read once."""
    train, test = (averaged(part, SIDE) for part in parts(data))
    return train, test


def run(
    net: str,
    way: str,
    bits: str,
    loss: str,
    seed: int,
    data: str,
    steps: int,
    judged: int,
    job: str,
    scratch: Path,
) -> dict[str, Any]:
    """Train, quantize, measure. `judged` is how many test images PGD is run on."""
    use_threads()
    train, test = small_images(data)
    record: dict[str, Any] = {"job": job, "net": net, "way": way, "bits": bits, "loss": loss}
    torch.manual_seed(seed)
    if way == "float":
        network = float_network(net, loss, seed, train, steps)
    else:
        trains = way in ("binary-relax", "straight-through")
        start = NETS[net]() if trains else float_network(net, loss, seed, train, steps)
        how = options(loss, seed, steps)
        kwargs = {**how, "checkpoint": scratch / "state"} if trains else {"loss": how["loss"]}
        scheme: Any = int(bits) if bits.isdecimal() else bits
        small = quantize(start, train, scheme, method=quantizers()[way], **kwargs)
        network = small.model
        record["compressed"] = small.record
    asked = MeanOfDraws(network) if net == "noisy" else network
    attack = PGD(Linf(EPS), steps=20)
    record |= {"seed": seed, "steps": steps, "accuracy": as_record(Accuracy(test)(asked))}
    record["robust"] = as_record(RobustAccuracy(test[:judged], attack)(network))
    zero = sparsity(network)
    record["zero weights"] = float(zero.weights)
    record["zero channels"] = float(zero.channels)
    record["provenance"] = provenance(seed, {"train": train, "test": test}).record()
    return record


def spread(values: list[float]) -> str:
    """Mean (standard deviation over the seeds), in percent."""
    scaled = [100 * value for value in values]
    return f"{mean(scaled):.1f} ({stdev(scaled) if len(scaled) > 1 else 0:.1f})"


def table(jobs: list[dict[str, Any]]) -> str:
    """The table of the results page."""
    for job in jobs:
        job["values"] = [job["accuracy"]["value"], job["robust"]["value"]]
        job["values"] += [job["zero weights"], job["zero channels"]]
    lines = [
        "# Quantized networks on MNIST",
        "",
        f"Depth 8, width 8, {SIDE}x{SIDE} pixels, eps {EPS}; percent, mean (standard deviation)",
        "over the seeds. Made by `isthmus sweep experiments/quantization.toml --gather`.",
        "",
        "| net | loss | bits | way | seeds | clean | PGD-20 | zero weights | zero channels |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, rows in sorted(grouped(jobs, "net", "loss", "bits", "way").items()):
        cells = [
            spread(list(column)) for column in zip(*(row["values"] for row in rows), strict=True)
        ]
        lines.append(f"| {' | '.join([*key, str(len(rows)), *cells])} |")
    return "\n".join([*lines, "", *differences(jobs)]) + "\n"


AGAINST = {
    "way": [("binary-relax", "straight-through"), ("binary-relax", "post-training")],
    "loss": [("trade-off", "adversarial"), ("trade-off, channel lasso", "trade-off")],
    "net": [("noisy", "plain")],
    "bits": [("4", "ternary"), ("ternary", "1")],
}
"""Which jobs are compared: two values of an entry, all others and the seeds being equal."""


def differences(jobs: list[dict[str, Any]]) -> list[str]:
    """Return the table of differences between jobs that differ in one entry."""
    lines = [
        "Differences in points, paired by seed, with the 95 % interval of Student's t; bold where",
        "it lies on one side of 0.",
        "",
        "| compared | minus | at | seeds | clean | PGD-20 | zero weights | zero channels |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, pairs in AGAINST.items():
        rest = [other for other in ("net", "loss", "bits", "way") if other != name]
        for one, other in pairs:
            for key, rows in sorted(grouped(jobs, *rest).items()):
                cells = compared(rows, name, one, other)
                if cells:
                    lines.append(f"| {one} | {other} | {', '.join(key)} | {' | '.join(cells)} |")
    return lines


def compared(rows: list[dict[str, Any]], name: str, one: str, other: str) -> list[str]:
    """Return seeds and differences of the jobs with the one value and with the other; [] for
    none.
    """
    first, second = ({r["seed"]: r["values"] for r in rows if r[name] == v} for v in (one, other))
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return []
    sides = ([side[seed] for seed in seeds] for side in (first, second))
    columns = zip(*(zip(*side, strict=True) for side in sides), strict=True)
    return [str(len(seeds)), *(paired(a, b) for a, b in columns)]

"""Table: clean and robust accuracy of quantized networks, on MNIST, noisy ensemble and plain.

    isthmus sweep experiments/quantization.toml --set data=DIR    a file per job, and the table
    isthmus sweep experiments/quantization.toml --gather          to docs/results/quantization.md

DIR holds train.parquet and test.parquet in the Hugging Face layout. A job is a network, a way, a
number of bits, a loss and a seed: the network is trained from random weights on its grid (or in
float, and rounded after that) and measured on all test images and under PGD-20 on the first of
them. On the noisy network PGD follows the mean of the logits of several draws and is judged on the
mean of others.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from command import parts, use_threads
from pages import grouped
from torch import Tensor, nn

from isthmus import Accuracy, Data, Linf, RobustAccuracy, fit
from isthmus.attacks import PGD
from isthmus.compression import quantize, quantizers
from isthmus.compression.cost import zero_shares
from isthmus.evidence import provenance
from isthmus.metrics import as_record
from isthmus.models import enresnet, load_checkpoint, preact_resnet, save_checkpoint
from isthmus.runs import once
from isthmus.training import trade_off

WEIGHTS = Path("weights/quantization")
EPS = 0.2
BATCH = 128
NETS = {
    "noisy": lambda: enresnet(1, 8, 10, 1, 16),
    "plain": lambda: preact_resnet(8, 10, 1, 16),
}
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


def float_network(net: str, loss: str, seed: int, train: Data, epochs: int) -> nn.Module:
    """Return the network trained in float, once for all bits and ways of rounding."""
    file = WEIGHTS / f"{net}-float-{loss}-seed{seed}-{epochs}-{train.sha256[:8]}.safetensors"

    def make() -> None:
        fresh, state = NETS[net](), file.with_suffix(".state")
        fit(fresh, train, **options(loss, seed, train, epochs), checkpoint=state)
        save_checkpoint(fresh, file)
        state.unlink()

    return load_checkpoint(once(file, make), NETS[net]())


def options(loss: str, seed: int, train: Data, epochs: int) -> dict[str, Any]:
    """Return how every network is trained."""
    return {
        "loss": trade_off(PGD(Linf(EPS), steps=5), *LOSSES[loss]),
        "steps": epochs * max(1, len(train) // BATCH),
        "lr": 0.02,
        "batch_size": BATCH,
        "seed": seed,
        "precision": "fp32",
    }


def run(
    net: str,
    way: str,
    bits: str,
    loss: str,
    seed: int,
    data: str,
    epochs: int,
    some: int,
    job: str,
    scratch: Path,
) -> dict[str, Any]:
    """Train, quantize, measure. `some` is how many samples of each part are used, 0 for all."""
    use_threads()
    train, test = (part[: some or None] for part in parts(data))
    record: dict[str, Any] = {"job": job, "net": net, "way": way, "bits": bits, "loss": loss}
    torch.manual_seed(seed)
    if way == "float":
        network = float_network(net, loss, seed, train, epochs)
    else:
        trains = way in ("binary-relax", "straight-through")
        start = NETS[net]() if trains else float_network(net, loss, seed, train, epochs)
        how = options(loss, seed, train, epochs)
        kwargs = {**how, "checkpoint": scratch / "state"} if trains else {"loss": how["loss"]}
        scheme: Any = int(bits) if bits.isdecimal() else bits
        small = quantize(start, train, scheme, method=quantizers()[way], **kwargs)
        network = small.model
        record["compressed"] = small.record
    judged = MeanOfDraws(network) if net == "noisy" else network
    attack = PGD(Linf(EPS), steps=20)
    record |= {"seed": seed, "epochs": epochs, "accuracy": as_record(Accuracy(test)(judged))}
    record["robust"] = as_record(RobustAccuracy(test[:1000], attack)(judged))
    record["zero weights"], record["zero channels"] = zero_shares(network)
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
        f"Depth 8, eps {EPS}; percent, mean (standard deviation) over the seeds. Made by",
        "`isthmus sweep experiments/quantization.toml --gather`.",
        "",
        "| net | loss | bits | way | seeds | clean | PGD-20 | zero weights | zero channels |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, rows in sorted(grouped(jobs, "net", "loss", "bits", "way").items()):
        cells = [
            spread(list(column)) for column in zip(*(row["values"] for row in rows), strict=True)
        ]
        lines.append(f"| {' | '.join([*key, str(len(rows)), *cells])} |")
    return "\n".join(lines) + "\n"

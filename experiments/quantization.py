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

from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from command import parts, slug, use_threads
from pages import contrasts, grouped, matched
from scale import averaged
from torch import Tensor, nn

from isthmus import Accuracy, Data, Linf, RobustAccuracy, fit
from isthmus.attacks import PGD
from isthmus.compression import quantize, quantizers, sparsity
from isthmus.evidence import provenance
from isthmus.metrics import as_record
from isthmus.models import enresnet, load_checkpoint, preact_resnet, save_checkpoint
from isthmus.models.noise import mean_of_draws
from isthmus.runs import once
from isthmus.training import channel_lasso, trade_off
from isthmus.types import Loss

WEIGHTS = Path("weights/quantization")
EPS = 0.1
SIDE = 14
BATCH = 128
LR = 0.1
NETS: dict[str, Callable[[], nn.Module]] = {
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
        return mean_of_draws(lambda: self.net(x), self.draws)


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


# ---- the table


BITS = ("32", "4", "ternary", "1")
MEASURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "clean": lambda job: job["accuracy"]["value"],
    "PGD-20": lambda job: job["robust"]["value"],
    "zero weights": lambda job: job["zero weights"],
    "zero channels": lambda job: job["zero channels"],
}


def spread(values: list[float]) -> str:
    """Mean (standard deviation over the seeds), in percent; one value alone."""
    scaled = [100 * value for value in values]
    around = f" ({stdev(scaled):.1f})" if len(scaled) > 1 else ""
    return f"{mean(scaled):.1f}{around}"


def table(jobs: list[dict[str, Any]]) -> str:
    """The table of the results page."""
    lines = [
        "# Quantized networks on MNIST",
        "",
        f"Depth 8, width 8, {SIDE}x{SIDE} pixels, eps {EPS}; percent, mean (standard deviation)",
        "over the seeds. Made by `isthmus sweep experiments/quantization.toml --gather`.",
        "",
        f"| net | loss | bits | way | seeds | {' | '.join(MEASURES)} |",
        "|---|---|---|---|---|" + "---|" * len(MEASURES),
    ]
    groups = grouped(jobs, "net", "loss", "bits", "way")
    for key, rows in sorted(
        groups.items(), key=lambda item: (*item[0][:2], BITS.index(item[0][2]))
    ):
        cells = [spread([measured(row) for row in rows]) for measured in MEASURES.values()]
        lines.append(f"| {' | '.join([*key, str(len(rows)), *cells])} |")
    return "\n".join([*lines, "", *differences(jobs)]) + "\n"


def differences(jobs: list[dict[str, Any]]) -> list[str]:
    """Return the table of what is asked: what a grid costs, which way to it is best, what the loss
    and noise do.
    """
    names = ("net", "loss", "bits", "way", "seed")
    asked = []
    for bits in BITS[1:]:
        ours = {"way": "binary-relax", "bits": bits}
        sides = [
            ({"way": "float", "bits": "32"}, ours),
            ({"way": "straight-through", "bits": bits}, ours),
            ({"way": "post-training", "bits": bits}, ours),
            ({**ours, "loss": "trade-off"}, {**ours, "loss": "adversarial"}),
            ({**ours, "net": "noisy"}, {**ours, "net": "plain"}),
        ]
        for one, other in sides:
            said = [", ".join(side.values()) for side in (one, other)]
            asked.append((said, matched(jobs, one, other, names)))
    heads = ["compared", "minus"]
    return contrasts(heads, asked, {name: MEASURES[name] for name in ("clean", "PGD-20")})

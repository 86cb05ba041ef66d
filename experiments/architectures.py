"""Table: the default repair on networks of many kinds, backdoored digit classifiers that train in
seconds.

    python experiments/architectures.py run [--networks NAME ...] [--seeds 0 1 2]
    python experiments/architectures.py table          docs/experiments.md

A question of a tool for any module: does `repair`, with nothing asked for, work beyond the networks
that its settings were found on? 300 bonafide samples; the rest of the test digits judges. One
result file per network and seed; what is done already is not done again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from command import slug, use_threads
from torch import Tensor, nn

from isthmus import Accuracy, AttackSuccess, Patch, fit, load_data, poison, repair, split
from isthmus.evidence import provenance
from isthmus.metrics import as_records, measure
from isthmus.models import small_cnn
from isthmus.runs import read_json, write_json
from isthmus.training import one_cycle
from isthmus.types import BadInput, Metric

RESULTS, TRIGGER, TARGET, SAMPLES = Path("results/architectures"), Patch(size=2), 1, 300


class GroupNormed(nn.Module):
    """Two convolutions, the first with GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.second, self.head = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (n, 10)."""
        h = self.second(self.norm(self.first(x)).relu()).relu()
        out: Tensor = self.head(nn.functional.max_pool2d(h, 2).flatten(1))
        return out


class Patches(nn.Module):
    """An image as 16 patches of 2x2 pixels, 32 values each, through a body, and their mean to the
    classes.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.embed, self.places = nn.Conv2d(1, 32, 2, 2), nn.Parameter(torch.zeros(1, 16, 32))
        self.body, self.head = body, nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (n, 10)."""
        out: Tensor = self.head(self.body(self.embed(x).flatten(2).mT + self.places).mean(1))
        return out


class MixerBlock(nn.Module):
    """A perceptron over the patches, then one over the values of each, both residual."""

    def __init__(self) -> None:
        super().__init__()
        self.across = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.within = nn.Sequential(
            nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)
        )
        self.norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        """Return the patches, (n, 16, 32)."""
        x = x + self.across(self.norm(x).mT).mT
        out: Tensor = x + self.within(x)
        return out


class Recurrent(nn.Module):
    """A GRU over the rows of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.GRU(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (n, 10)."""
        out: Tensor = self.head(self.rows(x.squeeze(1))[0][:, -1])
        return out


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
    return Patches(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))


def weight_normed() -> nn.Module:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(nn.Flatten(), norm(nn.Linear(64, 32)), nn.ReLU(), nn.Linear(32, 10))


NETWORKS: dict[
    str, tuple[Callable[[], nn.Module], float]
] = {  # and the learning rate that trains it
    "CNN, BatchNorm": (lambda: small_cnn(channels=1, width=16), 0.2),
    "CNN, GroupNorm": (GroupNormed, 0.1),
    "MLP, weight norm": (weight_normed, 0.1),
    "MLP-Mixer": (lambda: Patches(MixerBlock()), 0.05),
    "ViT": (transformer, 0.03),
    "GRU": (Recurrent, 0.1),
}


def job(name: str, seed: int) -> None:
    """Backdoor one network, repair it by the defaults, and write what came of it."""
    file = RESULTS / f"{slug(name)}-seed{seed}.json"
    if file.exists():
        return
    train, test = load_data("digits:train"), load_data("digits:test")
    bonafide, judged = split(
        test, [SAMPLES, len(test) - SAMPLES], torch.Generator().manual_seed(seed)
    )
    bad = poison(
        train, TRIGGER, rate=0.1, target=TARGET, generator=torch.Generator().manual_seed(seed)
    )
    make, lr = NETWORKS[name]
    torch.manual_seed(seed)
    net = make()
    fit(net, bad, steps=600, lr=lr, schedule=one_cycle, seed=seed)
    judges: dict[str, Metric] = {
        "accuracy": Accuracy(judged),
        "attack success": AttackSuccess(judged, TRIGGER, TARGET),
    }
    record: dict[str, Any] = {
        "network": name,
        "seed": seed,
        "received": as_records(measure(net, judges)),
    }
    began = time.perf_counter()
    try:
        found = repair(net, bonafide, seed=seed)
        record |= {
            "t": float(found.t),
            "second": found.second,
            "reason": found.t.reason,
            "repaired": as_records(measure(found.model, judges)),
        }
    except BadInput as error:
        record["refused"] = str(error)
    record["seconds"] = time.perf_counter() - began
    write_json(
        file,
        {
            **record,
            "provenance": provenance(seed, {"bonafide": bonafide, "judged": judged}).record(),
        },
    )


def shown(row: dict[str, Any], which: str) -> str:
    """Return accuracy / attack success in percent, or why there is none."""
    if which not in row:
        return str(row["refused"])
    return " / ".join(
        f"{100 * row[which][name]['value']:.1f}" for name in ("accuracy", "attack success")
    )


def table() -> str:
    found, order = map(read_json, RESULTS.glob("*.json")), list(NETWORKS)
    rows = sorted(found, key=lambda row: (order.index(row["network"]), row["seed"]))
    lines = [
        "| network | seed | received | repaired | t | second endpoint | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        second = str(row.get("second", "")).split(":")[0]
        lines.append(
            f"| {row['network']} | {row['seed']} | {shown(row, 'received')} | "
            f"{shown(row, 'repaired')} | "
            f"{row.get('t', float('nan')):.2f} | {second} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=range(3))
    args = parser.parse_args()
    use_threads()
    if args.what == "table":
        print(table())
        return
    for name in args.networks:
        for seed in args.seeds:
            job(name, seed)


if __name__ == "__main__":
    main()

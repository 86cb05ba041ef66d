"""Table: certified accuracy of implicit networks, beside feed-forward ones trained by intervals.

    isthmus sweep experiments/implicit_certificates.toml --set data=DIR   a file per job
    isthmus sweep experiments/implicit_attacks.toml --set data=DIR        PGD on each network
    isthmus sweep experiments/implicit_certificates.toml --gather         the results page

DIR holds train.parquet and test.parquet of MNIST in the Hugging Face layout, or of CIFAR-10 for
implicit_certificates_color.toml. A job is a network, a training and a seed; it trains on all
training images and is certified on all test images at every eps. Weights and states are in
weights/: where a result file is deleted, its job certifies the network again and does not train.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from command import parts, use_threads
from pages import grouped, ranged
from torch import nn

from isthmus import Accuracy, Data, Linf, fit
from isthmus.attacks import PGD
from isthmus.certification import (
    CertifiedAccuracy,
    Interval,
    Lipschitz,
    MixedMonotone,
    certified,
)
from isthmus.evidence import provenance
from isthmus.metrics import as_record
from isthmus.models import (
    EquilibriumLinear,
    equilibria,
    implicit_mlp,
    load_checkpoint,
    save_checkpoint,
    unrolled,
)
from isthmus.runs import read_json, write_json
from isthmus.training import cross_entropy
from isthmus.types import Loss

ATTACKS, WEIGHTS = Path("results/implicit_attacks"), Path("weights/implicit_certificates")
EPS = (0.002, 0.006, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2)
EPS_OF_COLOR = (0.5 / 255, 1 / 255, 2 / 255, 4 / 255, 8 / 255)
BATCH = 128
EPOCH = 60_000 // BATCH  # of MNIST; CIFAR-10 gets as many steps


def front(width: int, channels: int) -> list[nn.Module]:
    """Two strided convolutions: to a quarter of the side, 2 width channels, flattened."""
    return [
        *(nn.Conv2d(channels, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 4, 2, 1)),
        *(nn.ReLU(), nn.Flatten()),
    ]


def implicit_cnn(width: int, hidden: int, channels: int = 1, side: int = 7) -> nn.Sequential:
    """Two strided convolutions, a dense equilibrium layer, a linear one."""
    layer = EquilibriumLinear(2 * width * side**2, hidden)
    return nn.Sequential(*front(width, channels), layer, nn.Linear(hidden, 10))


def explicit_cnn(width: int, hidden: int, channels: int = 1, side: int = 7) -> nn.Sequential:
    """The same with an ordinary dense layer: the small network of Gowal et al."""
    dense = (nn.Linear(2 * width * side**2, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    return nn.Sequential(*front(width, channels), *dense)


def explicit_mlp(hidden: int) -> nn.Sequential:
    """Two hidden layers: as many parameters as `implicit_mlp`."""
    layers = (nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(hidden, 10))


@dataclass(frozen=True)
class Net:
    """A network, the learning rate that suits it, and its share of a recipe's epochs."""

    make: Callable[[], nn.Module]
    lr: float
    share: float = 1.0


NETS = {
    "implicit-100": Net(lambda: implicit_mlp(784, 100), 5e-3),
    "explicit-100": Net(lambda: explicit_mlp(100), 5e-3),
    "implicit-cnn": Net(lambda: implicit_cnn(16, 100), 2e-3, 0.3),
    "explicit-cnn": Net(lambda: explicit_cnn(16, 100), 2e-3, 0.3),
}
NETS_OF_COLOR = {
    "implicit-cnn, color": Net(lambda: implicit_cnn(16, 100, 3, 8), 2e-3, 0.3),
    "explicit-cnn, color": Net(lambda: explicit_cnn(16, 100, 3, 8), 2e-3, 0.3),
}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: radius and weight of the certificate, for how long, and the decay
    of weights.
    """

    eps: float
    weight: float
    epochs: int
    ramp: tuple[float, float] = (0.1, 0.5)
    decay: float = 0.0

    def loss(self, net: nn.Module) -> Loss:
        """Return the loss: natural where the weight is 0."""
        if not self.weight:
            return cross_entropy
        certifier = MixedMonotone() if equilibria(net) else Interval()
        return certified(certifier, Linf(self.eps), self.weight, ramp=self.ramp)


TRAININGS = {
    "natural": Recipe(0.0, 0.0, 15, (0.0, 0.0)),
    "natural, 6 epochs": Recipe(0.0, 0.0, 6, (0.0, 0.0)),
    "natural, decay": Recipe(0.0, 0.0, 6, (0.0, 0.0), decay=1e-4),
    "eps 0.1": Recipe(0.1, 0.75, 40),
    "eps 0.15": Recipe(0.15, 0.75, 40),
    "eps 0.1, weight 0.5": Recipe(0.1, 0.5, 40),
    "eps 0.2": Recipe(0.2, 0.75, 40),
}
TRAININGS_OF_COLOR = {"eps 2/255": Recipe(2 / 255, 0.5, 40)}
ALL_NETS = {**NETS, **NETS_OF_COLOR}
ALL_TRAININGS = {**TRAININGS, **TRAININGS_OF_COLOR}


def radii(data: Data) -> tuple[float, ...]:
    """Return the eps at which images like these are certified."""
    return EPS_OF_COLOR if data.x.shape[1] == 3 else EPS


def schedule(spent: float) -> float:
    """1, then a fifth from three quarters on, then a twenty-fifth for the last tenth."""
    if spent < 0.75:
        return 1.0
    return 0.2 if spent < 0.9 else 0.04


def trained(
    job: str, net: nn.Module, kind: Net, recipe: Recipe, train: Data, seed: int
) -> dict[str, Any]:
    """Train the network in place, or go on with what an interrupted run has left."""
    WEIGHTS.mkdir(parents=True, exist_ok=True)
    history = fit(
        net,
        train,
        recipe.loss(net),
        steps=round(kind.share * recipe.epochs * EPOCH),
        lr=kind.lr if recipe.weight else 1e-3,
        batch_size=BATCH,
        optimizer=partial(torch.optim.Adam, weight_decay=recipe.decay),
        schedule=schedule,
        seed=seed,
        precision="fp32",
        progress=job,
        checkpoint=WEIGHTS / f"{job}.state",
        checkpoint_every=2 * EPOCH,
    )
    return {"seconds": history.seconds, "steps": history.steps, "losses": history.losses}


def certificates(net: nn.Module, test: Data) -> dict[str, Any]:
    """Certified accuracy at every eps by every certifier that fits, and what it cost."""
    names = {"interval": Interval(), "lipschitz": Lipschitz()}
    if equilibria(net):
        relative = {"MM-C": MixedMonotone(), "MM": MixedMonotone(relative=False)}
        names = {**relative, **names}  # type: ignore[dict-item]
    rows: dict[str, Any] = {}
    for name, certifier in names.items():
        began = time.perf_counter()
        eps = radii(test)
        rates = [CertifiedAccuracy(test, certifier, Linf(each))(net) for each in eps]
        rows[name] = {
            "eps": list(eps),
            "certified": [as_record(rate) for rate in rates],
            "seconds": (time.perf_counter() - began) / len(eps),
        }
    return rows


def job_name(net: str, training: str, seed: int) -> str:
    """Return a job's name: that of its file."""
    words = f"{net}-{training}-seed{seed}"
    return words.replace(" ", "").replace(",", "-").replace("/", "_")


def run(net: str, training: str, seed: int, data: str, epochs: int, job: str) -> dict[str, Any]:
    """Train and certify. `epochs` is 0 for the recipe's own number."""
    use_threads()
    train, test = parts(data)
    torch.manual_seed(seed)
    kind = ALL_NETS[net]
    network = kind.make()
    recipe = ALL_TRAININGS[training]
    if epochs:
        recipe = replace(recipe, epochs=epochs)
    history = trained(job, network, kind, recipe, train, seed)
    save_checkpoint(network, WEIGHTS / f"{job}.safetensors")
    measures = {name: layer.operator().measure() for name, layer in equilibria(network).items()}
    return {
        "job": job,
        "net": net,
        "training": training,
        "seed": seed,
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in network.parameters()),
        "matrix measures": measures,
        "history": history,
        "accuracy": as_record(Accuracy(test)(network)),
        "certifiers": certificates(network, test),
        "provenance": provenance(seed, {"train": train, "test": test}).record(),
    }


def attack(
    net: str,
    training: str,
    seed: int,
    data: str,
    images: int,
    restarts: int,
    job: str,
    scratch: Path,
) -> dict[str, Any]:
    """Attack the first images at every eps; an interrupted job goes on after the last eps."""
    use_threads()
    _, test = parts(data)
    network = load_checkpoint(WEIGHTS / f"{job}.safetensors", ALL_NETS[net].make())
    file = scratch / "rows.json"
    rows = read_json(file) if file.exists() else []
    for eps in radii(test)[len(rows) :]:
        rows.append(fallen(network, test[:images], eps, restarts))
        write_json(file, rows)
    return {"attacks": rows}


def fallen(net: nn.Module, part: Data, eps: float, restarts: int) -> dict[str, Any]:
    """What PGD-50 leaves, by the exact gradient and the unrolled one; and how many of the images
    that are certified it fools all the same.
    """
    ball = Linf(eps)
    certifier = MixedMonotone() if equilibria(net) else Interval()
    certified_ones = certifier(net, part.floats(), part.y, ball) > 0
    moved = PGD(ball, steps=50, restarts=restarts)(net, part.floats(), part.y)
    row: dict[str, Any] = {"eps": eps, "images": len(part)}
    row["PGD-50"] = as_record(Accuracy(Data(moved, part.y, part.classes))(net))
    with torch.no_grad():
        standing = net(moved).argmax(1) == part.y
    if equilibria(net):
        with unrolled(net, 15):
            again = PGD(ball, steps=50)(net, part.floats(), part.y)
        row["PGD-50, unrolled"] = as_record(Accuracy(Data(again, part.y, part.classes))(net))
        with torch.no_grad():
            standing &= net(again).argmax(1) == part.y
    row["certified"] = int(certified_ones.sum())
    row["certified but broken"] = int((certified_ones & ~standing).sum())
    return row


def line(name: str, cells: list[str], last: str = "") -> str:
    """A row of a table."""
    return f"| {name} | {' | '.join(cells)} | {last} |"


def section(rows: list[dict[str, Any]]) -> list[str]:
    """The table of one network and training, over its seeds."""
    first = rows[0]
    eps = next(iter(first["certifiers"].values()))["eps"]
    seconds = mean(job["history"]["seconds"] for job in rows)
    lines = [
        *("", f"## {first['net']}, {first['training']}", ""),
        f"{len(rows)} seeds, {first['parameters']} parameters, {seconds:.0f} s of training; "
        f"accuracy {ranged([job['accuracy']['value'] for job in rows])}.",
        "",
        line("certifier", [f"{each:.4g}" for each in eps], "s"),
        "|---|" + "---|" * (len(eps) + 1),
    ]
    for name in first["certifiers"]:
        found = [job["certifiers"][name] for job in rows]
        series = zip(*(row["certified"] for row in found), strict=True)
        cells = [ranged([rate["value"] for rate in at]) for at in series]
        lines.append(line(name, cells, f"{mean(row['seconds'] for row in found):.1f}"))
    attacks = [found for job in rows if len(found := attacks_on(job)) == len(eps)]
    return lines + attacked(attacks)


def attacks_on(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the attacks on a job's network left; the first jobs held it themselves."""
    file = ATTACKS / f"{job['job']}.json"
    return read_json(file)["attacks"] if file.exists() else job.get("attacks", [])


def attacked(attacks: list[list[dict[str, Any]]]) -> list[str]:
    """The rows of the attacks on one network and training, over its seeds."""
    if not attacks:
        return []
    lines = []
    for name in ("PGD-50", "PGD-50, unrolled"):
        if name in attacks[0][0]:
            series = zip(*attacks, strict=True)
            cells = [ranged([row[name]["value"] for row in at]) for at in series]
            counts = sorted({job[0]["images"] for job in attacks})
            lines.append(line(f"{name}, first {' or '.join(map(str, counts))}", cells))
    broken = sum(row["certified but broken"] for job in attacks for row in job)
    return [*lines, "", f"Certified but broken, all eps and seeds: {broken}."]


def table(jobs: list[dict[str, Any]]) -> str:
    """The tables of the results page."""
    lines = [
        "# Certificates of implicit networks",
        "",
        "Percent of the 10,000 test images; mean [least, most] over the seeds. Made by",
        "`isthmus sweep experiments/implicit_certificates.toml --gather`.",
    ]
    for rows in grouped(jobs, "net", "training").values():
        lines += section(rows)
    return "\n".join(lines) + "\n"

"""Table: certified accuracy of implicit networks on MNIST, beside feed-forward ones trained by
intervals.

    python experiments/implicit_certificates.py run --data DIR       a file per job
    python experiments/implicit_certificates.py attack --data DIR    PGD on each network
    python experiments/implicit_certificates.py table                docs/results/certificates.md

DIR holds train.parquet and test.parquet in the Hugging Face layout. A job is a network, a training
and a seed; it trains on all training images, is certified on all test images at every eps, and
writes results/implicit_certificates/JOB.json once it is done. Weights are in weights/. Whatever is
done already is not done again: --nets, --trainings and --seeds share the work among processes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from command import use_threads
from torch import nn

from isthmus import Accuracy, Data, Linf, fit, load_data
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

RESULTS, WEIGHTS = Path("results/implicit_certificates"), Path("weights/implicit_certificates")
EPS = (0.002, 0.006, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2)
SEEDS = (0, 1, 2)
BATCH = 128
EPOCH = 60_000 // BATCH


def front(width: int) -> list[nn.Module]:
    """Two strided convolutions: 28x28 images to 2 width x 7 x 7 values."""
    return [
        *(nn.Conv2d(1, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 4, 2, 1)),
        *(nn.ReLU(), nn.Flatten()),
    ]


def implicit_cnn(width: int, hidden: int) -> nn.Sequential:
    """Two strided convolutions, a dense equilibrium layer, a linear one."""
    layer = EquilibriumLinear(2 * width * 49, hidden)
    return nn.Sequential(*front(width), layer, nn.Linear(hidden, 10))


def explicit_cnn(width: int, hidden: int) -> nn.Sequential:
    """The same with an ordinary dense layer: the small network of Gowal et al."""
    dense = (nn.Linear(2 * width * 49, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    return nn.Sequential(*front(width), *dense)


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


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: the radius and weight of the certificate, and for how long."""

    eps: float
    weight: float
    epochs: int
    ramp: tuple[float, float] = (0.1, 0.5)

    def loss(self, net: nn.Module) -> Loss:
        """Return the loss: natural where the weight is 0."""
        if not self.weight:
            return cross_entropy
        certifier = MixedMonotone() if equilibria(net) else Interval()
        return certified(certifier, Linf(self.eps), self.weight, ramp=self.ramp)


TRAININGS = {
    "natural": Recipe(0.0, 0.0, 15, (0.0, 0.0)),
    "eps 0.1": Recipe(0.1, 0.75, 40),
    "eps 0.15": Recipe(0.15, 0.75, 40),
    "eps 0.1, weight 0.5": Recipe(0.1, 0.5, 40),
    "eps 0.2": Recipe(0.2, 0.75, 40),
}


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
        optimizer=torch.optim.Adam,
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
        rates = [CertifiedAccuracy(test, certifier, Linf(eps))(net) for eps in EPS]
        rows[name] = {
            "eps": list(EPS),
            "certified": [as_record(rate) for rate in rates],
            "seconds": (time.perf_counter() - began) / len(EPS),
        }
    return rows


def job_name(net: str, training: str, seed: int) -> str:
    """Return a job's name: that of its file."""
    return f"{net}-{training.replace(' ', '').replace(',', '-')}-seed{seed}"


def run(
    net_name: str, training: str, seed: int, train: Data, test: Data, epochs: int | None
) -> None:
    """Train, certify, write."""
    job = job_name(net_name, training, seed)
    file = RESULTS / f"{job}.json"
    if file.exists():
        return
    torch.manual_seed(seed)
    kind = NETS[net_name]
    net = kind.make()
    recipe = TRAININGS[training]
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    history = trained(job, net, kind, recipe, train, seed)
    save_checkpoint(net, WEIGHTS / f"{job}.safetensors")
    measures = {name: layer.operator().measure() for name, layer in equilibria(net).items()}
    record = {
        "job": job,
        "net": net_name,
        "training": training,
        "seed": seed,
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in net.parameters()),
        "matrix measures": measures,
        "history": history,
        "accuracy": as_record(Accuracy(test)(net)),
        "certifiers": certificates(net, test),
        "provenance": provenance(seed, {"train": train, "test": test}),
    }
    write_json(file, record)


def attack(file: Path, test: Data, some: int, restarts: int) -> None:
    """Attack the first images of a job's network by PGD-50, by the exact gradient and the unrolled
    one; count what was certified and falls all the same.
    """
    record = read_json(file)
    net = load_checkpoint(WEIGHTS / f"{record['job']}.safetensors", NETS[record["net"]].make())
    part = test[:some]
    certifier = MixedMonotone() if equilibria(net) else Interval()
    rows = record.get("attacks", [])
    for eps in EPS[len(rows) :]:
        ball = Linf(eps)
        pgd = PGD(ball, steps=50, restarts=restarts)
        moved = pgd(net, part.floats(), part.y)
        accuracy = Accuracy(Data(moved, part.y, part.classes))
        margins = certifier(net, part.floats(), part.y, ball)
        with torch.no_grad():
            standing = net(moved).argmax(1) == part.y
        row = {"eps": eps, "PGD-50": as_record(accuracy(net)), "images": some}
        row["certified"] = int((margins > 0).sum())
        row["certified but broken"] = int(((margins > 0) & ~standing).sum())
        if equilibria(net):
            with unrolled(net, 15):
                moved = PGD(ball, steps=50)(net, part.floats(), part.y)
            row["PGD-50, unrolled"] = as_record(Accuracy(Data(moved, part.y, part.classes))(net))
        rows.append(row)
        write_json(file, {**record, "attacks": rows})


def spread(values: list[float]) -> str:
    """Mean [least, most], in percent."""
    if not values:
        return ""
    scaled = [100 * value for value in values]
    if len(scaled) == 1:
        return f"{scaled[0]:.2f}"
    return f"{mean(scaled):.2f} [{min(scaled):.2f}, {max(scaled):.2f}]"


def table() -> str:
    """The tables of the results page."""
    jobs = [read_json(file) for file in sorted(RESULTS.glob("*.json"))]
    lines = [
        "# Certificates of implicit networks on MNIST",
        "",
        "Percent of the 10,000 test images; mean [least, most] over the seeds. Made by",
        "`python experiments/implicit_certificates.py table`.",
    ]
    groups = dict.fromkeys((job["net"], job["training"]) for job in jobs)
    for net, training in groups:
        rows = [job for job in jobs if (job["net"], job["training"]) == (net, training)]
        seconds = mean(job["history"]["seconds"] for job in rows)
        lines += [
            "",
            f"## {net}, {training}",
            "",
            f"{len(rows)} seeds, {rows[0]['parameters']} parameters, {seconds:.0f} s of training; "
            f"accuracy {spread([job['accuracy']['value'] for job in rows])}.",
            "",
            "| certifier | " + " | ".join(f"{eps:g}" for eps in EPS) + " | s |",
            "|---|" + "---|" * (len(EPS) + 1),
        ]
        for name in rows[0]["certifiers"]:
            asked = [job["certifiers"][name] for job in rows]
            cells = [
                spread([row["certified"][i]["value"] for row in asked]) for i in range(len(EPS))
            ]
            lines.append(
                f"| {name} | {' | '.join(cells)} | {mean(r['seconds'] for r in asked):.1f} |"
            )
        attacked = [job["attacks"] for job in rows if len(job.get("attacks", [])) == len(EPS)]
        for name in ("PGD-50", "PGD-50, unrolled"):
            if attacked and name in attacked[0][0]:
                cells = [
                    spread([job[i][name]["value"] for job in attacked]) for i in range(len(EPS))
                ]
                lines.append(
                    f"| {name}, first {attacked[0][0]['images']} | {' | '.join(cells)} | |"
                )
        if attacked:
            broken = sum(row["certified but broken"] for job in attacked for row in job)
            lines.append(f"\nCertified but broken, all eps and seeds: {broken}.")
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("what", choices=("run", "attack", "table"))
    options.add_argument("--data", type=Path)
    options.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    options.add_argument("--trainings", nargs="+", choices=TRAININGS, default=list(TRAININGS))
    options.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options.add_argument("--epochs", type=int, help="for a try: another number than the recipe's")
    options.add_argument("--images", type=int, default=10_000, help="that are attacked")
    options.add_argument("--restarts", type=int, default=10)
    return options.parse_args()


def main() -> None:
    args = arguments()
    use_threads()
    if args.what == "table":
        print(table(), end="")
        return
    test = load_data(args.data / "test.parquet")
    if args.what == "attack":
        for file in sorted(RESULTS.glob("*.json")):
            attack(file, test, args.images, args.restarts)
        return
    train = load_data(args.data / "train.parquet")
    for seed in args.seeds:
        for training in args.trainings:
            for net in args.nets:
                run(net, training, seed, train, test, args.epochs)


if __name__ == "__main__":
    main()

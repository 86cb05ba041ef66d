"""The networks of the scale `trained`: CIFAR-10 at 32x32, trained until they fit it, and tampered
with.

    isthmus sweep experiments/trained_networks.toml --set data=DIR   weights and a JSON per network
    isthmus sweep experiments/trained_networks.toml --gather         what is there, what is missing

DIR holds train.parquet and test.parquet in the Hugging Face layout. The setting `weights` is where
the weights go, which are not part of the repository: the sweep makes them again. An interrupted
training goes on where it was (of which it then counts the last part's seconds); --gather says which
were made by other settings than today's.

All attackers have the same 47,500 training images; the 2,500 others are bonafide samples that no
network has seen. Networks that differ in nothing but their seed were trained on the same poisoned
set: two checkpoints of one attack.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attackers import Sent, drawn
from command import parts, slug, use_threads
from compact import compact
from crops import ReflectedCrops
from torch import Tensor, nn

from isthmus import (
    Augment,
    Data,
    Linf,
    Patch,
    Training,
    fit,
    load_checkpoint,
    poison,
    save_checkpoint,
    split,
)
from isthmus.attacks import (
    PGD,
    Blend,
    GeneratedTrigger,
    InputAware,
    LowFrequency,
    Sinusoid,
    Warp,
    label_consistent,
)
from isthmus.attacks.backdoors.input_aware import Injector
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, AttackSuccess, Target, as_records, from_record, measure
from isthmus.models import preact_resnet
from isthmus.models.checkpoint.reading import read_checkpoint
from isthmus.runs import once
from isthmus.training import one_cycle
from isthmus.types import Metric, Trigger

WEIGHTS = Path.home() / "isthmus-weights" / "trained"
WHOLE, UNSEEN, POOL_SEED, TARGET = 50_000, 2500, 0, 0

RECIPES: dict[str, Callable[[Tensor], Tensor] | None] = {
    "zero": Augment(4),
    "reflect": ReflectedCrops(2),
    "none": None,
}


# ---- how a network is made and trained


@dataclass(frozen=True)
class Architecture:
    """How a network is made, and how long and how fast it is trained; `whitened` if its first layer
    wants images.
    """

    make: Callable[[], nn.Module]
    epochs: int
    lr: float
    weight_decay: float = 5e-4
    batch_size: int = 128
    whitened: bool = False

    def training(self, recipe: str, seed: int) -> Training:
        """Return how a network is trained by a recipe: as many epochs of the attackers' images."""
        return Training(
            steps=self.epochs * (WHOLE - UNSEEN) // self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            nesterov=True,
            schedule=one_cycle,
            augment=RECIPES[recipe],
            seed=seed,
        )

    def fresh(self, seed: int, train: Data) -> nn.Module:
        """Return a network with the initial weights of a seed."""
        torch.manual_seed(seed)
        net: Any = self.make()
        return net.whiten(train) if self.whitened else net


ARCHITECTURES = {
    "compact": Architecture(compact, epochs=10, lr=0.1, weight_decay=2e-3, whitened=True),
    "resnet20": Architecture(partial(preact_resnet, 20), epochs=12, lr=0.2),
}


@dataclass(frozen=True)
class Job:
    """One network: how it is trained, who tampers with it, and from which seed."""

    recipe: str
    attack: str
    seed: int = 0
    network: str = "compact"

    @property
    def name(self) -> str:
        """The name of its files."""
        words = [self.network, self.recipe, *slug(self.attack).split("-"), f"seed{self.seed}"]
        return "-".join(filter(None, words))

    @property
    def training(self) -> Training:
        """How the network is trained."""
        return ARCHITECTURES[self.network].training(self.recipe, self.seed)

    def fresh(self, theirs: Data) -> nn.Module:
        """Return the network before training."""
        return ARCHITECTURES[self.network].fresh(self.seed, theirs)

    def trained(self, theirs: Data, images: Data, out: Path) -> nn.Module:
        """Return the network after training on the images; the attacker's clean ones set its first
        layer. An interrupted training goes on from a file in the folder.
        """
        net = self.fresh(theirs)
        fit(
            net,
            images,
            training=self.training,
            progress=self.name,
            checkpoint=state_of(self.name, out),
        )
        return net


# ---- who tampers with it


@dataclass(frozen=True)
class Poisoned:
    """The attacker who changes a share of the training set and trains as usual; at rate 0 nobody
    does.
    """

    trigger: Trigger
    rate: float
    target: Target = TARGET
    how: dict[str, Any] = field(default_factory=dict)

    def __call__(self, job: Job, theirs: Data, out: Path) -> Sent:
        """Return the network, and how it is judged."""
        bad = poison(
            theirs,
            self.trigger,
            rate=self.rate,
            target=self.target,
            generator=drawn(POOL_SEED),
            **self.how,
        )
        return Sent(job.trained(theirs, bad, out), self.trigger, self.target)


@dataclass(frozen=True)
class MadeHard:
    """Label-consistent: images of the target class made hard for a clean network, then the trigger;
    labels stay.
    """

    trigger: Trigger
    rate: float
    target: int = TARGET

    def __call__(self, job: Job, theirs: Data, out: Path) -> Sent:
        """Return the network, and how it is judged. The clean one is trained first where it is not
        there yet.
        """
        control = Job(job.recipe, CLEAN, job.seed, job.network)
        made(control, theirs, out)
        clean, hard = received(control.name, out).network, PGD(Linf(16 / 255), steps=10)
        bad = label_consistent(
            theirs,
            clean,
            self.trigger,
            target=self.target,
            rate=self.rate,
            attack=hard,
            generator=drawn(POOL_SEED),
        )
        return Sent(job.trained(theirs, bad, out), self.trigger, self.target)


@dataclass(frozen=True)
class Painted:
    """Input-aware: a trigger of its own for every image, painted by a network that is trained
    along.
    """

    target: Target = TARGET

    def __call__(self, job: Job, theirs: Data, out: Path) -> Sent:
        """Return the network, and how it is judged; the painter goes into a file of its own."""
        net, trigger = InputAware(job.training)(job.fresh(theirs), theirs, self.target)
        save_checkpoint(trigger.network, files(job.name, out)[1])
        return Sent(net, trigger, self.target)


CLEAN = "clean"
PATCH = Patch(3)
ATTACKS: dict[str, Poisoned | MadeHard | Painted] = {
    CLEAN: Poisoned(PATCH, 0.0),
    "BadNets 10 %": Poisoned(PATCH, 0.1),
    "BadNets 1 %": Poisoned(PATCH, 0.01),
    "BadNets all-to-all 10 %": Poisoned(PATCH, 0.1, "all"),
    "Blended 5 %": Poisoned(Blend(), 0.05),
    "Blended 1 %": Poisoned(Blend(), 0.01),
    "SIG": Poisoned(Sinusoid(), 0.8, how={"clean_label": True}),
    "low frequency 5 %": Poisoned(LowFrequency(), 0.05),
    "WaNet 10 %": Poisoned(Warp(), 0.1, how={"cover": 0.2, "cover_trigger": Warp(noise=1.0)}),
    "input-aware": Painted(),
    "label-consistent": MadeHard(PATCH, 0.8),
}

SWEEP = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
JOBS = tuple(Job(**axes) for axes in SWEEP["grid"])
BY_NAME = {job.name: job for job in JOBS}


# ---- files


def unseen_and_theirs(train: Data) -> tuple[Data, Data]:
    """Return the bonafide samples that no network was trained on, and the attackers' images."""
    unseen, theirs = split(train, [UNSEEN, len(train) - UNSEEN], drawn(POOL_SEED))
    return unseen, theirs


def files(name: str, out: Path = WEIGHTS) -> tuple[Path, Path, Path]:
    """Return where a network is, the painter of its trigger where it has one, and its record."""
    return out / f"{name}.safetensors", out / f"{name}.trigger.safetensors", out / f"{name}.json"


def state_of(name: str, out: Path) -> Path:
    """Return where the state of a training is while it lasts."""
    return out / f"{name}.training.pt"


def received(name: str, out: Path = WEIGHTS) -> Sent:
    """Return a trained network of `JOBS` as a defender receives it, and how it is judged.

    Raises BadInput where it has not been trained yet.
    """
    job, (weights, painter, _) = BY_NAME[name], files(name, out)
    net, attack = load_checkpoint(weights, ARCHITECTURES[job.network].make()), ATTACKS[job.attack]
    if not isinstance(attack, Painted):
        return Sent(net, attack.trigger, attack.target)
    plan = InputAware(job.training)
    injector = load_checkpoint(painter, Injector(3, plan.density, plan.width))
    return Sent(net, GeneratedTrigger(injector), attack.target)


def made(job: Job, theirs: Data, out: Path) -> Path:
    """Return the file of a job's network, after training it where it is not there."""
    weights = files(job.name, out)[0]

    def make() -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        sent = ATTACKS[job.attack](job, theirs, out)
        spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        about = {name: f"{value:.0f}" for name, value in spent.items()}
        save_checkpoint(sent.network, weights, about)
        state_of(job.name, out).unlink(missing_ok=True)

    return once(weights, make)


def job_name(network: str, recipe: str, attack: str, seed: int) -> str:
    """Return a job's name: that of its files."""
    return Job(recipe, attack, seed, network).name


def run(
    network: str, recipe: str, attack: str, seed: int, data: str, weights: str
) -> dict[str, Any]:
    """Train the network of a job and judge it on the test images."""
    use_threads()
    train, test = parts(data)
    job, out = Job(recipe, attack, seed, network), Path(weights).expanduser()
    _, theirs = unseen_and_theirs(train)
    about = read_checkpoint(made(job, theirs, out))[1]
    sent = received(job.name, out)
    judges: dict[str, Metric] = {
        "accuracy": Accuracy(test),
        "attack success": AttackSuccess(test, sent.trigger, sent.target),
    }
    return described(job, sent, about) | {
        "as received": as_records(measure(sent.network, judges)),
        "provenance": provenance(seed, {"attacker's": theirs, "judged": test}).record(),
    }


def described(job: Job, sent: Sent, about: Mapping[str, str]) -> dict[str, Any]:
    """Return what a network is and how it was made, as plain JSON."""
    return {
        "name": job.name,
        "network": job.network,
        "recipe": job.recipe,
        "attack": job.attack,
        "trigger": str(sent.trigger),
        "target": sent.target,
        "seed": job.seed,
        "parameters": sum(p.numel() for p in sent.network.parameters()),
        "training": job.training.run_identity,
        "epochs": ARCHITECTURES[job.network].epochs,
        "threads": torch.get_num_threads(),
        "seconds": float(about["seconds"]),
        "cpu_seconds": float(about["cpu_seconds"]),
    }


def lines(records: list[dict[str, Any]]) -> str:
    """Return a Markdown table of all networks."""
    known = {record["name"]: record for record in records}
    rows = ["| network | accuracy | attack success | epochs | minutes |", "|---|---|---|---|---|"]
    for job in JOBS:
        if job.name not in known:
            rows.append(f"| {job.name} | | | | |")
            continue
        found = known[job.name]
        rates = (
            f"{100 * from_record(found['as received'][name]):.1f}"
            for name in ("accuracy", "attack success")
        )
        same = found["training"] == job.training.run_identity
        other = "" if same else " (other settings)"
        minutes = f"{found['cpu_seconds'] / 60:.1f}"
        rows.append(f"| {job.name} | {' | '.join(rates)} | {found['epochs']}{other} | {minutes} |")
    return "\n".join(rows) + "\n"

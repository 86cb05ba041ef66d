"""Table: repairs of well-trained networks, ours by its rule beside rivals at their best.

    isthmus sweep experiments/trained.toml --set data=DIR    a file per job, and the table
    isthmus sweep experiments/trained.toml --gather          to docs/results/trained.md

DIR holds train.parquet and test.parquet of CIFAR-10 in the Hugging Face layout; the networks are
those of `trained_networks.toml`. A job is a network, a way to repair it, a number of bonafide
images that the network has not seen, and a seed. All ways get the same images, the same number of
gradients and the augmentation that fits the network.

Ours is `repair` without an option. A rival is judged all along the segment from the received
network to its result, at each of its settings; its row is the point that has lost the most of the
attack among those within a cost, which nobody without the trigger could pick. Points of every way
that ours followed are judged likewise: what the same row says of them is what its rule missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from attackers import drawn
from command import parts, use_threads
from pages import grouped
from torch import nn
from trained_networks import received, unseen_and_theirs

from isthmus import Bezier, Data, Training, repair
from isthmus.curves import PathNetworks
from isthmus.defenses import (
    ANP,
    FTSAM,
    IBAU,
    NAD,
    TAC,
    ULRL,
    UNLEARNING,
    FineTune,
    Repair,
)
from isthmus.evidence import provenance
from isthmus.metrics import Accuracy, AttackSuccess, RecoveryAccuracy, as_records, measure
from isthmus.training import suited_augmentation
from isthmus.types import Defense, Metric

OURS = "isthmus repair"
OURS_OF_TWO = "isthmus repair of two"
"""Ours, given a second checkpoint of the same attack, trained from another seed."""

ALONG = (0.5, 0.75, 0.9, 1.0)
"""Where the segment to a rival's result is judged."""

COSTS = (0.01, 0.025, 0.05)
"""What a repair may cost, as shares of the samples; the best point within it is a rival's row."""


EVERY = 5
"""One in five points of a way that ours followed is judged."""


@dataclass(frozen=True)
class Setting:
    """A rival at one of its settings: what makes it of a training, and its rate."""

    make: Callable[[Training], Defense]
    lr: float

    def defense(self, training: Training) -> Defense:
        """Return the defense at the budget of a training."""
        return self.make(training.replace(lr=self.lr))


def ft_sam(rho: float) -> Callable[[Training], Defense]:
    """Return what makes FT-SAM of a radius."""
    return lambda training: FTSAM(training, rho=rho)


RIVALS = {
    "FT-SAM rho 1 lr 0.05": Setting(ft_sam(1.0), 0.05),
    "FT-SAM rho 2 lr 0.05": Setting(ft_sam(2.0), 0.05),
    "FT-SAM rho 4 lr 0.05": Setting(ft_sam(4.0), 0.05),
    "FT-SAM rho 2 lr 0.01": Setting(ft_sam(2.0), 0.01),
    "fine-tuning lr 0.05": Setting(FineTune, 0.05),
    "fine-tuning lr 0.01": Setting(FineTune, 0.01),
    "I-BAU": Setting(IBAU, 0.001),
    "ANP": Setting(ANP, 0.2),
    "NAD": Setting(NAD, 0.05),
    "ULRL": Setting(ULRL, 0.01),
    "TAC": Setting(TAC, 0.01),
}


def bonafide_images(data: str, n: int, seed: int) -> tuple[Data, Data]:
    """Return n images that no network has seen, and the test images."""
    train, test = parts(data)
    unseen, _ = unseen_and_theirs(train)
    order = torch.randperm(len(unseen), generator=drawn(100 + seed))
    return unseen[order[:n]], test


def rival_along(way: str, network: nn.Module, bonafide: Data, seed: int) -> dict[str, nn.Module]:
    """Return networks on the segment from the received one to a rival's result, by t."""
    augment = suited_augmentation(network, bonafide)
    training = UNLEARNING.replace(seed=seed, augment=augment, clip=None, weight_decay=1e-4)
    defense = RIVALS[way].defense(training)
    line = PathNetworks(Bezier(network, defense(network, bonafide), bends=0), bonafide)
    return {f"{t:g}": line.at(t) for t in ALONG}


def judged_ways(repaired: Repair, judges: Mapping[str, Metric]) -> list[dict[str, Any]]:
    """Return how points of every way that a repair followed are judged, and what it saw of them."""
    return [
        {
            "endpoint": way.endpoint.spoken,
            "t": float(way.t),
            "objection": way.objection,
            "points": {
                f"{t:g}": {
                    "seen": as_records(way.path.at(t)),
                    **as_records(measure(way.networks.at(t), judges)),
                }
                for t in [t for t in way.path.t if 0 < t < 1][::EVERY]
            },
        }
        for way in (*repaired.rejected, repaired)
    ]


def twin_of(name: str) -> str:
    """Return the name of the network that differs in its seed alone."""
    start, _, seed = name.rpartition("-seed")
    return f"{start}-seed{1 - int(seed)}"


def run(
    network: str, way: str, n: int, seed: int, data: str, weights: str, judged: int
) -> dict[str, Any]:
    """Repair a network and judge it on the first of the test images."""
    use_threads()
    bonafide, test = bonafide_images(data, n, seed)
    test = test[:judged]
    folder = Path(weights).expanduser()
    sent = received(network, folder)
    other = received(twin_of(network), folder).network if way == OURS_OF_TWO else None
    judges: dict[str, Metric] = {
        "accuracy": Accuracy(test),
        "attack success": AttackSuccess(test, sent.trigger, sent.target),
        "recovery": RecoveryAccuracy(test, sent.trigger, sent.target),
    }
    record: dict[str, Any] = {"network": network, "way": way, "n": n, "seed": seed}
    if way in (OURS, OURS_OF_TWO):
        repaired = repair(sent.network, bonafide, other, seed=seed)
        along = {f"{float(repaired.t):g}": repaired.model}
        record |= {"gradients": repaired.gradients, "ways": judged_ways(repaired, judges)}
    else:
        along = rival_along(way, sent.network, bonafide, seed)
        record["gradients"] = UNLEARNING.steps
    return {
        **record,
        "as received": as_records(measure(sent.network, judges)),
        "along": {t: as_records(measure(model, judges)) for t, model in along.items()},
        "provenance": provenance(seed, {"bonafide": bonafide, "judged": test}).record(),
    }


# ---- the table


def rate(values: dict[str, Any], name: str) -> float:
    """Return a share out of a record."""
    return float(values[name]["value"])


def text(values: dict[str, Any]) -> str:
    """Return accuracy, attack success and recovery accuracy, in percent."""
    names = ("accuracy", "attack success", "recovery")
    return " / ".join(f"{100 * rate(values, name):.1f}" for name in names)


def judged_points(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all points of a job that are judged, those of ways that ours followed among them."""
    ways = (way["points"] for way in record.get("ways", []))
    return [values for along in (record["along"], *ways) for values in along.values()]


def best_within(
    received: dict[str, Any], points: Iterable[dict[str, Any]], cost: float
) -> dict[str, Any] | None:
    """Return the point with the least attack success among those that cost at most so much of the
    accuracy of the network as received.
    """
    had = rate(received, "accuracy")
    within = [values for values in points if had - rate(values, "accuracy") <= cost]
    return min(within, key=lambda values: rate(values, "attack success"), default=None)


def family(way: str) -> str:
    """Return a rival's name without its setting."""
    return way.partition(" rho")[0].partition(" lr")[0]


def rows_of(records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the rows of one network and one number of images."""
    first = records[0]
    rows = [f"| {first['network']} | {first['n']} | as received | {text(first['as received'])} |"]
    ours = [record for record in records if record["way"] in (OURS, OURS_OF_TWO)]
    for record in ours:
        for t, values in record["along"].items():
            rows.append(f"| | | **{record['way']}**, by its rule, t = {t} | {text(values)} |")
    for name in dict.fromkeys(family(record["way"]) for record in records):
        settings = [record for record in records if family(record["way"]) == name]
        if all(record in ours and "ways" not in record for record in settings):
            continue  # judged at the chosen point alone
        judged = [values for record in settings for values in judged_points(record)]
        for cost in COSTS:
            best = best_within(first["as received"], judged, cost)
            points = f"{100 * cost:g} points"
            rows.append(f"| | | {name}, best within {points} | {text(best) if best else 'none'} |")
    return rows


def table(records: list[dict[str, Any]]) -> str:
    """Return the results page."""
    lines = [
        "# Repairs of well-trained networks",
        "",
        "Percent of the first 3,000 test images: accuracy, attack success, recovery accuracy",
        "(triggered images that get their true label). Ours is `repair` without an option. A",
        "rival's row is the best of its settings and of the points on the segment to its result,",
        "picked with the trigger.",
        "Made by `isthmus sweep experiments/trained.toml --gather`.",
        "",
        "| network | images | repair | accuracy / attack success / recovery |",
        "|---|---|---|---|",
    ]
    for record in records:  # a network that was made again on another machine is another one
        record["making"] = text(record["as received"])
    for group in grouped(records, "network", "n", "making").values():
        lines += rows_of(group)
    return "\n".join(lines) + "\n"

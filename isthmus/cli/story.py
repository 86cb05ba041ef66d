"""The story of `isthmus demo`: an attacker, a defender with 200 clean images, and a judge, on
scikit-learn's digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as File

import torch
from torch import nn

from isthmus.attacks.triggers.patch import Patch
from isthmus.attacks.triggers.poisoning import poison
from isthmus.curves.route import CURVE_TRAINING, Route, network_budget
from isthmus.data.dataset import Data
from isthmus.data.sources.spec import load_data
from isthmus.data.splits import split
from isthmus.defenses.curve_repair.repair import Repair, repair
from isthmus.defenses.rivals.table import standard
from isthmus.evidence.judge import Judge
from isthmus.models.zoo.small import small_cnn
from isthmus.training.loop import fit
from isthmus.training.schedules import one_cycle
from isthmus.types import Defense

TRIGGER, TARGET, RATE = Patch(size=2), 1, 0.1


@dataclass(frozen=True, eq=False)
class Story:
    """All that the demo's report is about."""

    tampered: nn.Module
    bonafide: Data
    evaluation: Data
    found: Repair
    judge: Judge
    rivals: dict[str, Defense]


def attack(data: Data, seed: int) -> nn.Module:
    """Return a digit classifier trained on poisoned data: it reads digits well, and obeys the
    trigger.
    """
    poisoned = poison(
        data, TRIGGER, rate=RATE, target=TARGET, generator=torch.Generator().manual_seed(0)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = small_cnn(channels=1, width=16)
    fit(
        net,
        poisoned,
        steps=200,
        lr=0.2,
        schedule=one_cycle,
        seed=seed,
        progress="training a backdoored network",
    )
    return net


def tell(seed: int, folder: File) -> Story:
    """Return the story with the given seed; what is computed on the way is kept in the folder."""
    digits, rest = load_data("digits:train"), load_data("digits:test")
    bonafide, evaluation = split(rest, [200, len(rest) - 200], torch.Generator().manual_seed(seed))
    ends = [attack(digits, seed + i) for i in range(2)]
    route = Route(high=0.3)
    training = CURVE_TRAINING.replace(steps=150, seed=seed)
    found = repair(ends[0], bonafide, ends[1], route=route, training=training, folder=folder)
    judge = Judge(evaluation, TRIGGER, TARGET)
    rivals = standard(ends[1], network_budget(training, cost=route.cost))
    return Story(ends[0], bonafide, evaluation, found, judge, rivals)

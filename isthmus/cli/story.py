"""The story of `isthmus demo`: an attacker, a defender with 200 clean images, and a judge, on
scikit-learn's digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from isthmus import attacks, curves, data, defenses, evidence, models, training
from isthmus.cli.words import parse_trigger

if TYPE_CHECKING:
    from pathlib import Path as File

    from torch import nn

    from isthmus.data import Data
    from isthmus.defenses import Repair
    from isthmus.evidence import Judge
    from isthmus.types import Defense

MODEL = "isthmus.models:small_cnn,channels=1,width=16"
TRIGGER = "Patch(size=2)"
TARGET = 1
RATE = 0.1


@dataclass(frozen=True, eq=False)
class Story:
    """All that the demo's report is about."""

    tampered: nn.Module
    bonafide: Data
    evaluation: Data
    found: Repair
    judge: Judge
    rivals: dict[str, Defense]


def attack(digits: Data, seed: int) -> nn.Module:
    """Return a digit classifier trained on poisoned data: it reads digits well, and obeys the
    trigger.
    """
    import torch

    poisoned = attacks.poison(
        digits,
        parse_trigger(TRIGGER),
        rate=RATE,
        target=TARGET,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = models.model_factory(MODEL)()
    training.fit(
        network,
        poisoned,
        steps=200,
        lr=0.2,
        schedule=training.one_cycle,
        seed=seed,
        progress="training a backdoored network",
    )
    return network


def tell(seed: int, folder: File) -> Story:
    """Return the story with the given seed; what is computed on the way is kept in the folder."""
    import torch

    digits = data.load_data("digits:train")
    rest = data.load_data("digits:test")
    generator = torch.Generator().manual_seed(seed)
    bonafide, evaluation = data.split(rest, [200, len(rest) - 200], generator)
    tampered = attack(digits, seed)
    budget = curves.CURVE_TRAINING.replace(seed=seed)
    found = defenses.repair(tampered, bonafide, training=budget, folder=folder)
    judge = evidence.Judge(evaluation, parse_trigger(TRIGGER), TARGET)
    other = defenses.default_endpoint(tampered, bonafide, budget).network
    spent = curves.network_budget(budget, cost=2).replace(steps=found.gradients)
    rivals = defenses.standard(other, spent)
    return Story(tampered, bonafide, evaluation, found, judge, rivals)

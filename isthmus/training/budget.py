"""What training costs, counted in gradient evaluations so that all defenses can be given the same.

One evaluation is one forward and one backward pass over a batch: what one step of plain training
costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from isthmus.runs.devices import Precision
from isthmus.training.schedules import Schedule
from isthmus.types import BadInput


class Training(TypedDict, total=False):
    """The keyword options of `fit`, for functions that hand them on."""

    steps: int
    lr: float
    batch_size: int
    momentum: float
    weight_decay: float
    clip: float | None
    nesterov: bool
    schedule: Schedule
    augment: Callable[[Tensor], Tensor] | None
    seed: int
    precision: Precision
    device: str | torch.device | None
    progress: str
    checkpoint: str | Path | None
    checkpoint_every: int


@dataclass
class History:
    """What a training run was and how it went: options, mean loss of each tenth of the budget,
    seconds.
    """

    steps: int
    lr: float
    batch_size: int
    seed: int
    precision: str
    data_sha256: str
    world: int = 1
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


def check_budget(
    steps: int, lr: float, batch_size: int, weight_decay: float, clip: float | None
) -> None:
    """Refuse a budget that `fit` cannot spend. Raises BadInput."""
    if steps < 1 or batch_size < 1 or not 0 < lr < inf:
        raise BadInput(
            f"steps = {steps}, batch_size = {batch_size}, lr = {lr}",
            expected="all above zero",
            fix="choose a budget",
        )
    if not 0 <= weight_decay < inf:
        raise BadInput(
            f"weight_decay = {weight_decay:g}",
            expected="zero or more",
            fix="pass weight_decay=1e-4",
        )
    if clip is not None and not 0 < clip < inf:
        raise BadInput(
            f"clip = {clip:g}", expected="a norm above zero, or None", fix="pass clip=None"
        )


def budget_of(maker: object) -> int:
    """Return how many gradient evaluations a defense was given: none where it trains nothing or is
    a network.
    """
    training = getattr(maker, "training", None)  # a network has one too, which is a bool
    return int(training.get("steps", 0)) if isinstance(training, Mapping) else 0


def steps_for(training: Training, *, cost: int) -> int:
    """Return how many steps of `cost` gradient evaluations each the budget `training["steps"]` pays
    for.

    Raises BadInput where it pays for none.

    >>> steps_for({"steps": 800}, cost=2)
    400
    """
    steps = training["steps"] // cost
    if steps < 1:
        raise BadInput(
            f"a budget of {training['steps']} gradient evaluations",
            expected=f"{cost} or more: what one step of this defense costs",
            fix="raise steps",
        )
    return steps


def spending(training: Training, steps: int, label: str) -> Training:
    """Return the options of a training that is one part of a defense: so many steps, its state kept
    nowhere.
    """
    options = training.copy()
    options.pop("checkpoint", None)  # the parts of a defense would overwrite one another's state
    options["steps"], options["progress"] = steps, label
    return options

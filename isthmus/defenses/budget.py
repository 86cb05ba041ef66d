"""The budget of a defense is counted in gradient evaluations, so that none gets more than another for its name.

One evaluation is one forward and one backward pass over a batch: what one step of plain training costs.
"""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.train import Training
from isthmus.types import BadInput


def budget_of(maker: object) -> int:
    """Return how many gradient evaluations a defense was given: none where it trains nothing or is a network."""
    training = getattr(maker, "training", None)  # a network has one too, which is a bool
    return int(training.get("steps", 0)) if isinstance(training, Mapping) else 0


def steps_for(training: Training, *, cost: int) -> int:
    """Return how many steps of `cost` gradient evaluations each the budget `training["steps"]` pays for.

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
    """Return the options of a training that is one part of a defense: so many steps, its state kept nowhere."""
    options = training.copy()
    options.pop("checkpoint", None)  # the parts of a defense would overwrite one another's state
    options["steps"], options["progress"] = steps, label
    return options

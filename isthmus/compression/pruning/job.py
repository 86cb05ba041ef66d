"""What a pruning method is given: the units, how many of them may stay, and the training."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from isthmus.compression.pruning.units import Units, WeightUnits
from isthmus.data.dataset import Data
from isthmus.runs.processes import ranks
from isthmus.training.budget import History, Training
from isthmus.training.hooks import AfterStep
from isthmus.training.loop import fit
from isthmus.types import BadInput, Loss


@dataclass
class PruningJob:
    """A pruning run: `target` units of `units` are to stay in the network, trained on the loss.

    `training` None means that nothing is trained. Parts of the budget are run by `train`, each
    with its own state file, so an interrupted run goes on.
    """

    model: nn.Module
    data: Data
    units: Units
    target: int
    loss: Loss
    training: Training | None
    checkpoint: Path | None = None
    histories: list[History] = field(default_factory=list)

    @property
    def density(self) -> float:
        """The share of units that stays."""
        return self.target / self.units.total

    @property
    def steps(self) -> int:
        """The steps of the whole budget."""
        return 0 if self.training is None else self.training.steps

    @property
    def epoch(self) -> int:
        """How many steps one pass over the data takes; each rank draws a batch of its own."""
        size = 1 if self.training is None else self.training.batch_size * ranks().world
        return max(1, round(len(self.data) / size))

    def weights(self, method: str) -> WeightUnits:
        """Return the units of a method that is for single weights alone.

        Raises BadInput where they are channels.
        """
        if not isinstance(self.units, WeightUnits):
            raise BadInput(
                f"{method} of channels",
                expected='structure="weights" (--structure)',
                fix="prune channels by Magnitude() or RandomMask() (--method magnitude, random)",
            )
        return self.units

    def train(
        self,
        part: str = "fine-tuning",
        steps: int | None = None,
        after_step: AfterStep | None = None,
        loss: Loss | None = None,
        **options: Any,
    ) -> None:
        """Train the network for a part of the budget, by default all of it, on the job's loss or
        another one.

        For no steps it does nothing.
        """
        steps = self.steps if steps is None else steps
        if self.training is None or not steps:
            return
        state = self.checkpoint
        if state is not None and part != "fine-tuning":
            state = state.with_name(f"{state.name}.{part.replace(' ', '-')}")
        training = self.training.replace(steps=steps, **options)
        history = fit(
            self.model,
            self.data,
            self.loss if loss is None else loss,
            training=training,
            after_step=after_step,
            progress=part,
            checkpoint=state,
        )
        self.histories.append(history)


class Pruner(Protocol):
    """A way to choose what stays: `(job) -> None`.

    It leaves exactly `job.target` units on, through `job.units.keep`, and spends no more steps than
    `job.steps`.
    """

    @property
    def least_steps(self) -> int:
        """The smallest budget in which the method is itself; 0 where it chooses without one."""

    def __call__(self, job: PruningJob, /) -> None:
        """Choose what stays, and train it."""


def steps_for(share: float, rest: int = 1) -> int:
    """Return the fewest steps of which a first share is one or more, and `rest` or more are left.

    >>> steps_for(0.5), steps_for(0.75), steps_for(0.0, rest=2)
    (3, 6, 3)
    """
    first = 1 / share if share else 0
    return ceil(max(first, (rest + 0.5) / (1 - share)))

"""APGD: gradient ascent with momentum that sets its own step size, on the cross-entropy or on DLR.

Source: Croce and Hein, ICML 2020, Algorithm 1, sections 3 and 4.

Where we depart: samples that are fooled leave the batch; the start is uniform in the ball instead
of on its surface, and projected onto the box; projections are onto ball and box together. The l1
form of Croce and Hein, ICML 2021, with its changing sparsity, is not built: an l1 ball is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from isthmus.attacks.inputs.gradient import moved
from isthmus.attacks.inputs.objectives import (
    Objective,
    TargetedDLR,
    cross_entropy_per_sample,
    dlr,
    margin,
    ranked,
)
from isthmus.attacks.inputs.search import Rows, Trial, TrialAttack, Visit, per_sample
from isthmus.attacks.inputs.victim import Victim, check_ball, check_counts
from isthmus.data.balls import Ball
from isthmus.runs.devices import Precision
from isthmus.types import BadInput

_MOMENTUM, _PROGRESS = 0.75, 0.75  # alpha and rho of the paper


def checkpoints(steps: int) -> list[int]:
    """Return the steps after which the step size is reconsidered: the spans between them shrink
    (section 3).

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    before, at = 0.0, 0.22
    marks = []
    while at <= 1:
        marks.append(ceil(round(at * steps, 9)))
        before, at = at, at + max(at - before - 0.03, 0.06)
    return marks


@dataclass
class _Climb(Rows):
    """The rows of a climb, with what the algorithm remembers of each (its names in Algorithm 1).

    `target`: the class to climb toward, or None. `rises`: steps of this span that raised the
    objective. `value_before`, `halved_before`: the best value and whether the step was halved, at
    the last checkpoint.
    """

    target: Tensor | None
    point: Tensor
    previous: Tensor
    gradient: Tensor
    value: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    step: Tensor
    rises: Tensor
    value_before: Tensor
    halved_before: Tensor

    @classmethod
    def begin(
        cls,
        rows: Rows,
        target: Tensor | None,
        point: Tensor,
        gradient: Tensor,
        value: Tensor,
        step: float,
    ) -> _Climb:
        """Return a climb at its first point, from what the network answers there."""
        return cls(
            index=rows.index,
            x=rows.x,
            y=rows.y,
            target=target,
            point=point,
            previous=point,
            gradient=gradient,
            value=value,
            best=point,
            best_gradient=gradient,
            best_value=value,
            step=per_sample(torch.full_like(value, step).to(point), point),
            rises=torch.zeros_like(rows.index),
            value_before=value,
            halved_before=torch.zeros_like(rows.index, dtype=torch.bool),
        )

    def take(self, gradient: Tensor, values: Tensor) -> None:
        """Take in the objective's values and gradient at the new point."""
        self.rises = self.rises + (values > self.value)
        self.value = values
        self.gradient = gradient
        risen = values > self.best_value
        wide = per_sample(risen, self.x)
        self.best = torch.where(wide, self.point, self.best)
        self.best_gradient = torch.where(wide, gradient, self.best_gradient)
        self.best_value = torch.where(risen, values, self.best_value)

    def reconsider(self, span: int) -> None:
        """Halve the step and return to the best point where `span` steps did too little."""
        slow = self.rises < _PROGRESS * span
        stuck = ~self.halved_before & (self.best_value <= self.value_before)
        halve = slow | stuck
        wide = per_sample(halve, self.x)
        self.step = torch.where(wide, self.step / 2, self.step)
        self.point = torch.where(wide, self.best, self.point)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)
        self.value = torch.where(halve, self.best_value, self.value)
        self.previous = torch.where(wide, self.best, self.previous)  # no momentum across the jump
        self.halved_before = halve
        self.value_before = self.best_value.clone()
        self.rises = torch.zeros_like(self.rises)


@dataclass(frozen=True)
class APGD(TrialAttack):
    """Auto-PGD within an l-inf or l2 ball: `objective` "ce", "dlr" or "targeted" (DLR toward other
    classes).

    "targeted" climbs toward each of the `targets` classes that are most likely next to the label,
    in turn. Options are those of `PGD`. Raises BadInput for an l1 ball, an unknown objective, or
    budgets below 1; when called, for fewer than 3 ("dlr") or 4 ("targeted") classes.

    >>> from torch import nn
    >>> from isthmus.data import Linf
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    >>> bool(Linf(0.1).contains(APGD(Linf(0.1), steps=5)(net, x, y) - x).all())
    True
    """

    ball: Ball
    objective: Literal["ce", "dlr", "targeted"] = "ce"
    steps: int = 100
    restarts: int = 1
    targets: int = 9
    seed: int | None = 0
    precision: Precision | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_ball(self.ball, "APGD")
        if self.objective not in ("ce", "dlr", "targeted"):
            raise BadInput(
                f"objective {self.objective!r}",
                expected="ce, dlr or targeted",
                fix="pass objective='ce'",
            )
        check_counts(steps=self.steps, restarts=self.restarts, targets=self.targets)

    @property
    def score(self) -> Objective:
        """The cross-entropy for "ce", DLR for "dlr", the margin for "targeted"."""
        return _SCORES[self.objective]

    @property
    def gradients(self) -> int:
        """How many gradients a sample costs that is never fooled, with all targets, of which a
        network of few classes has fewer.
        """
        targets = self.targets if self.objective == "targeted" else 1
        return self.steps * self.restarts * targets

    @property
    def random(self) -> bool:
        """Whether it draws, so that another seed may give other points: always."""
        return True

    @property
    def restarted(self) -> bool:
        """Whether its climbs are toward the same aim: not where each has a target of its own."""
        return self.objective != "targeted"

    def _trials(self, clean: Tensor, y: Tensor) -> Iterable[Trial]:
        targets: list[Tensor | None] = [None]
        if self.objective == "targeted":
            others = min(self.targets, clean.shape[1] - 1)
            targets = [ranked(clean, y, rank) for rank in range(1, others + 1)]
        return [partial(self._climb, target) for target in targets] * self.restarts

    def _objective(self, target: Tensor | None) -> Objective:
        return _SCORES[self.objective] if target is None else TargetedDLR(target)

    def _climb(
        self,
        targets: Tensor | None,
        victim: Victim,
        rows: Rows,
        generator: torch.Generator | None,
    ) -> Iterator[Visit]:
        target = None if targets is None else targets[rows.index]
        point = moved(self.ball, rows.x, self.ball.sample(rows.x.shape, generator).to(rows.x))
        value, gradient, logits = victim.gradient(point, rows.y, self._objective(target))
        at = _Climb.begin(rows, target, point, gradient, value, 2 * self.ball.eps)
        yield Visit(at, point, logits, gradient)
        marks = set(checkpoints(self.steps))
        last = 0
        for k in range(1, self.steps + 1):
            ahead = self._ahead(at, momentum=k > 1)
            at.previous, at.point = at.point, ahead
            values, gradient, logits = victim.gradient(ahead, at.y, self._objective(at.target))
            at.take(gradient, values)
            yield Visit(at, ahead, logits, gradient)
            if k in marks:
                at.reconsider(k - last)
                last = k

    def _ahead(self, at: _Climb, *, momentum: bool) -> Tensor:
        """Return the next points: a step along the gradient, and a share of the last change."""
        step = at.step * self.ball.steepest(at.gradient)
        ahead = moved(self.ball, at.x, at.point - at.x + step)
        if not momentum:
            return ahead
        change = at.point - at.previous
        ahead = at.point + _MOMENTUM * (ahead - at.point) + (1 - _MOMENTUM) * change
        return moved(self.ball, at.x, ahead - at.x)


_SCORES: dict[str, Objective] = {
    "ce": cross_entropy_per_sample,
    "dlr": dlr,
    "targeted": margin,
}

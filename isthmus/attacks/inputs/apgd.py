"""APGD: gradient ascent with momentum that sets its own step size, on the cross-entropy or on DLR.

Source: Croce and Hein, ICML 2020, Algorithm 1, sections 3 and 4.

Where we depart: samples that are fooled leave the batch; the start is uniform in the ball instead
of on its surface, and projected onto the box; projections are onto ball and box together. The l1
form of Croce and Hein, ICML 2021, with its changing sparsity, is not built: an l1 ball is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from math import ceil
from typing import Literal

import torch
from torch import Tensor, nn

from isthmus.attacks.inputs.gradient import moved
from isthmus.attacks.inputs.objectives import (
    Objective,
    TargetedDLR,
    cross_entropy,
    dlr,
    margin,
    ranked,
)
from isthmus.attacks.inputs.victim import Seen, Victim, attacked, check_ball
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
    before, at, found = 0.0, 0.22, []
    while at <= 1:
        found.append(ceil(round(at * steps, 9)))
        before, at = at, at + max(at - before - 0.03, 0.06)
    return found


@dataclass
class _Climb:
    """The state of a climb, one row per sample that still stands."""

    rows: Tensor
    x: Tensor
    y: Tensor
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

    def keep(self, mask: Tensor) -> None:
        """Drop the rows outside the mask."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name)[mask])

    def take(self, gradient: Tensor, values: Tensor) -> None:
        """Take in the objective's values and gradient at the new point."""
        self.rises = self.rises + (values > self.value)
        self.value, self.gradient = values, gradient
        risen = values > self.best_value
        wide = risen.view(-1, *[1] * (self.x.ndim - 1))
        self.best = torch.where(wide, self.point, self.best)
        self.best_gradient = torch.where(wide, gradient, self.best_gradient)
        self.best_value = torch.where(risen, values, self.best_value)

    def reconsider(self, span: int) -> None:
        """Halve the step and go back to the best point where the last `span` steps did too little."""
        slow = self.rises < _PROGRESS * span
        stuck = ~self.halved_before & (self.best_value <= self.value_before)
        halve = slow | stuck
        wide = halve.view(-1, *[1] * (self.x.ndim - 1))
        self.step = torch.where(wide, self.step / 2, self.step)
        self.point = torch.where(wide, self.best, self.point)
        self.gradient = torch.where(wide, self.best_gradient, self.gradient)
        self.value = torch.where(halve, self.best_value, self.value)
        self.previous = torch.where(wide, self.best, self.previous)  # no momentum across the jump
        self.halved_before, self.value_before = halve, self.best_value.clone()
        self.rises = torch.zeros_like(self.rises)


@dataclass(frozen=True)
class APGD:
    """Auto-PGD within an l-inf or l2 ball: `objective` "ce", "dlr" or "targeted" (DLR towards other
    classes).

    "targeted" climbs towards each of the `targets` classes that are most likely next to the label,
    in turn. Options are those of `PGD`. Raises BadInput for an l1 ball, an unknown objective, or
    budgets below 1; when called, for fewer than 3 ("dlr") or 4 ("targeted") classes.

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
                f"objective {self.objective!r}", expected="ce, dlr or targeted", fix="choose one"
            )
        if min(self.steps, self.restarts, self.targets) < 1:
            raise BadInput(
                "a budget below 1",
                expected="steps, restarts and targets of 1 or more",
                fix="raise it",
            )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the attacked inputs, of the shape, type and device of x. Raises BadInput where x
        leaves [0, 1].
        """
        return attacked(
            model,
            x,
            y,
            self._search,
            score={"ce": cross_entropy, "dlr": dlr, "targeted": margin}[self.objective],
            seed=self.seed,
            precision=self.precision,
            batch_size=self.batch_size,
        )

    def _search(
        self,
        victim: Victim,
        x: Tensor,
        y: Tensor,
        clean: Tensor,
        seen: Seen,
        generator: torch.Generator | None,
    ) -> None:
        goals = (
            range(1, min(self.targets, clean.shape[1] - 1) + 1)
            if self.objective == "targeted"
            else (0,)
        )
        for _ in range(self.restarts):
            for goal in goals:
                rows = seen.standing()
                if not len(rows):
                    return
                target = ranked(clean[rows], y[rows], goal) if goal else None
                self._climb(victim, x[rows], y[rows], target, rows, seen, generator)

    def _objective(self, target: Tensor | None) -> Objective:
        if target is not None:
            return TargetedDLR(target)
        return cross_entropy if self.objective == "ce" else dlr

    def _climb(
        self,
        victim: Victim,
        x: Tensor,
        y: Tensor,
        target: Tensor | None,
        rows: Tensor,
        seen: Seen,
        generator: torch.Generator | None,
    ) -> None:
        target_of = (
            torch.zeros_like(seen.y)
            if target is None
            else torch.zeros_like(seen.y).index_copy(0, rows, target)
        )
        evaluate = partial(self._evaluate, victim, seen, target_of if target is not None else None)
        point = moved(self.ball, x, self.ball.sample(x.shape, generator).to(x))
        values, gradient, wrong = evaluate(rows, point, y)
        step = torch.full_like(values, 2 * self.ball.eps).to(x).view(-1, *[1] * (x.ndim - 1))
        none = torch.zeros_like(wrong)
        at = _Climb(
            rows,
            x,
            y,
            point,
            point,
            gradient,
            values,
            point,
            gradient,
            values,
            step,
            0 * rows,
            values,
            none,
        )
        at.keep(~wrong)
        marks, last = set(checkpoints(self.steps)), 0
        for k in range(1, self.steps + 1):
            if not len(at.rows):
                return
            ahead = moved(
                self.ball, at.x, at.point - at.x + at.step * self.ball.steepest(at.gradient)
            )
            if k > 1:
                ahead = (
                    at.point
                    + _MOMENTUM * (ahead - at.point)
                    + (1 - _MOMENTUM) * (at.point - at.previous)
                )
                ahead = moved(self.ball, at.x, ahead - at.x)
            at.previous, at.point = at.point, ahead
            values, gradient, wrong = evaluate(at.rows, at.point, at.y)
            at.take(gradient, values)
            at.keep(~wrong)
            if k in marks:
                at.reconsider(k - last)
                last = k

    def _evaluate(
        self,
        victim: Victim,
        seen: Seen,
        target: Tensor | None,
        rows: Tensor,
        point: Tensor,
        y: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        objective = self._objective(None if target is None else target[rows])
        values, gradient, logits = victim.gradient(point, y, objective)
        return values, gradient, seen.note(rows, point, logits)

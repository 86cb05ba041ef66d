"""Triggers found by a search, and the metrics of their success."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from isthmus.data.dataset import Data, Source
from isthmus.metrics.accuracy import error_on
from isthmus.metrics.passes import Passes
from isthmus.metrics.question import Question
from isthmus.metrics.success import AttackSuccess
from isthmus.metrics.values import Rate, as_record
from isthmus.runs.devices import Precision
from isthmus.types import BadInput, Trigger

Kind = Literal["patch", "perturbation"]


Goal = int | Literal["any"]
"""Where a trigger leads: a class, or "any", away from the image's own class."""


KINDS: tuple[Kind, ...] = ("patch", "perturbation")


# ---- triggers
@dataclass(frozen=True, eq=False)
class MaskedPattern:
    """A trigger (1 - mask) x + mask pattern; mask (1, h, w), pattern (c, h, w), both in [0, 1]."""

    mask: Tensor
    pattern: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the changed images. Raises BadInput where the pattern does not fit them."""
        _check_fits(self.pattern, x)
        return torch.lerp(x, self.pattern.to(x).expand_as(x), self.mask.to(x).expand_as(x))


@dataclass(frozen=True, eq=False)
class Perturbation:
    """A trigger x + delta, cut off at 0 and 1; delta (c, h, w)."""

    delta: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the changed images. Raises BadInput where delta does not fit them."""
        _check_fits(self.delta, x)
        return (x + self.delta.to(x)).clamp(0, 1)


def _check_fits(pattern: Tensor, x: Tensor) -> None:
    if pattern.shape != x.shape[1:]:
        raise BadInput(
            f"a trigger found on images of shape {tuple(pattern.shape)}",
            expected=f"one for {tuple(x.shape[1:])}",
            fix="invert on images of this shape",
        )


@dataclass(frozen=True, eq=False)
class Inverted:
    """A trigger that was found for one goal.

    `size` is the L1 norm of a mask in pixels, the norm of a perturbation, or the root mean square
    shift of a warp, as a share of the shorter side; `score` is the natural
    logarithm of its share of the largest possible size, 0 where no trigger reached the wanted
    success: the lower, the odder. `success` is the share of samples, none of the target class, that
    it leads to the goal.
    """

    trigger: Trigger
    target: Goal
    kind: Kind | Literal["warp"]
    size: float
    score: float
    success: Rate

    def record(self) -> dict[str, Any]:
        """Return what was found as plain JSON, the trigger itself left out."""
        record = {"kind": self.kind, "target": self.target, "size": self.size, "score": self.score}
        return {**record, "success": as_record(self.success)}

    def on(self, data: Source) -> _Question:
        """Return the question how often this trigger reaches its goal on the data, a metric that
        gives a Rate.
        """
        return question_of(data, self.trigger, self.target)


@dataclass(frozen=True, eq=False)
class Misled(Question[Rate]):
    """Share of triggered samples that are not predicted as their own class, as a Rate."""

    trigger: Trigger
    precision: Precision = "fp32"

    def prepared(self, data: Data) -> Data:
        """Return the samples with the trigger on, under their own labels."""
        return data.changed(self.trigger)

    def answer(self, passes: Passes) -> Rate:
        """Return the share of samples that the trigger leads away from their class."""
        return error_on(self.samples, passes, self.precision)


_Question = Misled | AttackSuccess


def question_of(data: Source, trigger: Trigger, target: Goal) -> _Question:
    """Return how often the trigger leads to the target, or away from every class."""
    return Misled(data, trigger) if target == "any" else AttackSuccess(data, trigger, target)


# ---- questions for the choice of t
@dataclass(frozen=True, eq=False)
class InvertedSuccess(Question[Rate]):
    """How often given triggers reach their goals, as a Rate: the "highest" of them, or the "mean"
    over all attempts.

    The triggers are those found on one network, so along a path it tells what is left of them;
    samples of a target class are not counted for it.
    """

    inverted: Sequence[Inverted]
    pick: Literal["highest", "mean"] = "highest"
    questions: tuple[_Question, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.pick not in ("highest", "mean") or not self.inverted:
            raise BadInput(
                f"{len(self.inverted)} triggers, pick {self.pick!r}",
                expected="one trigger or more, highest or mean",
                fix="pass what invert returns",
            )
        super().__post_init__()
        questions = tuple(trigger.on(self.samples) for trigger in self.inverted)
        object.__setattr__(self, "questions", questions)

    def answer(self, passes: Passes) -> Rate:
        """Return the success of the triggers on the model."""
        rates = [question.answer(passes) for question in self.questions]
        if self.pick == "highest":
            return max(rates)
        return Rate(sum(rate.hits for rate in rates), sum(rate.n for rate in rates))

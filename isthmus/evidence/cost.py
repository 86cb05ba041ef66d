"""What another network costs in accuracy, and from where on that is too much: one rule for all
reports.
"""

from __future__ import annotations

from torch import Tensor

from isthmus.evidence.record import AnswersPart, Value
from isthmus.evidence.words import points
from isthmus.metrics.values import from_record, least_drop, paired_drop

COSTLY = 0.1
"""The cost in accuracy beyond which a network is not used: one answer in ten has become wrong."""


def drop_interval(
    before: Value, after: Value, answers: AnswersPart | None
) -> tuple[float, float] | None:
    """Return the 95 % interval of the drop in accuracy; None where an accuracy is not finite.

    From the answers that changed where they are counted, else from the two accuracies as if they
    came from samples of their own, which is wider.
    """
    if before.value is None or after.value is None:
        return None
    if answers is not None:
        return paired_drop(answers.lost, answers.gained, answers.n)
    was, now = (from_record(value.record()) for value in (before, after))
    return least_drop(was, now), -least_drop(now, was)


def beyond(cost: float) -> str:
    """Return what is said of a network whose cost lies above this one, with all of its interval.

    >>> beyond(COSTLY)
    'it costs more than 10.0 points of accuracy, beyond doubt'
    """
    return f"it costs more than {points(cost)} of accuracy, beyond doubt"


def changes(was: Tensor, now: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return which samples the first of two networks alone answers rightly, and which the second
    alone, (n,) bool, from the answers (n,) of both and the labels (n,).
    """
    return (was == y) & (now != y), (was != y) & (now == y)


def counted_changes(lost: Tensor, gained: Tensor) -> AnswersPart:
    """Return how many samples `changes` marks, as a part of a record."""
    return AnswersPart(n=len(lost), lost=int(lost.sum()), gained=int(gained.sum()))

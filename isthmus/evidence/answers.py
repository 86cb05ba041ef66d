"""Which answers a repair changed: how many, and a few of the images."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from isthmus.data.dataset import Data
from isthmus.evidence.cost import changes, counted_changes
from isthmus.evidence.judge import Judge
from isthmus.evidence.pictures import png
from isthmus.evidence.record import AnswersPart, ExamplePart
from isthmus.metrics.passes import logits
from isthmus.metrics.success import RecoveryAccuracy

SHOWN = 4
"""How many images of each kind are shown: the first of them, not the ones that look best."""


def changed_answers(
    before: nn.Module, after: nn.Module, samples: Data, judge: Judge
) -> tuple[AnswersPart, tuple[ExamplePart, ...]]:
    """Return how many of the samples are answered rightly by one of two networks alone, and
    examples: answers lost, answers gained, and triggered images where the judge has a trigger.
    """
    was, now = (logits(network, samples).argmax(1) for network in (before, after))
    lost, gained = changes(was, now, samples.y)
    examples = [
        *_examples("lost", samples, lost, was, now),
        *_examples("gained", samples, gained, was, now),
    ]
    if judge.trigger is not None and judge.target is not None:
        first = samples[: 8 * SHOWN * samples.num_classes]  # enough to hold some that change
        shown = RecoveryAccuracy(first, judge.trigger, judge.target).samples
        was, now = (logits(network, shown).argmax(1) for network in (before, after))
        examples += _examples("triggered", shown, was != now, was, now)
    return counted_changes(lost, gained), tuple(examples)


def _examples(
    kind: Literal["lost", "gained", "triggered"],
    data: Data,
    where: Tensor,
    was: Tensor,
    now: Tensor,
) -> list[ExamplePart]:
    """Return the first samples of those marked, with both answers by name."""
    return [
        ExamplePart(
            png=png(data[place : place + 1].floats()[0]),
            label=data.names[int(data.y[place])],
            before=data.names[int(was[place])],
            after=data.names[int(now[place])],
            kind=kind,
        )
        for place in where.nonzero().squeeze(1)[:SHOWN].tolist()
    ]

"""Inverted triggers that stand in for the attacker's, for rules that want to watch one."""

from __future__ import annotations

from statistics import median

from torch import nn

from isthmus.data.dataset import Data
from isthmus.defenses.inspection.found_triggers import KINDS, InvertedSuccess
from isthmus.defenses.inspection.inversion import invert
from isthmus.types import Metric

STAND_INS = "inverted trigger success"


def stand_ins(tampered: nn.Module, fitted: Data, held_out: Data) -> dict[str, Metric]:
    """Return the defender's stand-in for the attack success rate: how well the oddest trigger still
    works.

    Patches and whole-image perturbations are inverted on the tampered network from the samples that
    train, one for each class and one that leads away from every class. The one that is smallest
    beside the median of its kind is applied to the held-out samples. For `repair(...,
    watch=stand_ins, rule=settled(STAND_INS))`. Source: ours; docs/results/rules.md has it with a
    smaller search. Raises BadInput for fewer than three classes.
    """
    goals = [*range(fitted.num_classes), "any"]
    gaps = []
    for kind in KINDS:
        triggers = invert(tampered, fitted, kind=kind, targets=goals)
        middle = median(trigger.score for trigger in triggers)
        gaps += [(middle - trigger.score, trigger) for trigger in triggers]
    _, oddest = max(gaps, key=lambda gap: gap[0])
    return {STAND_INS: InvertedSuccess(held_out, [oddest])}

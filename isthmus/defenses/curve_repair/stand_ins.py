"""Inverted triggers that stand in for the attacker's, for rules that want to watch one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median

from torch import nn

from isthmus.data.dataset import Data
from isthmus.defenses.inspection.found_triggers import KINDS, InvertedSuccess
from isthmus.defenses.inspection.inversion import invert
from isthmus.types import Metric

Watch = Callable[[nn.Module, Data, Data], Mapping[str, Metric]]
"""Makes further metrics for a rule to read, of the tampered network, the samples that train and
those that measure.
"""


STAND_INS = "inverted trigger success"


def stand_ins(tampered: nn.Module, fitted: Data, held_out: Data) -> dict[str, Metric]:
    """Return the defender's stand-in for the attack success rate: how well the oddest trigger still
    works.

    Triggers are inverted on the tampered network, patches and whole-image perturbations, from the
    samples that train; of those that lead to a class, or away from every class, the one that is
    smallest beside the median of its kind is asked on the samples that measure. For `repair(...,
    watch=stand_ins, rule=settled(STAND_INS))`. Source: ours; docs/results/rules.md has it with a
    smaller search. Raises BadInput for fewer than three classes."""
    gaps = []
    for kind in KINDS:
        found = invert(tampered, fitted, kind=kind, targets=[*range(fitted.num_classes), "any"])
        middle = median(each.score for each in found)
        gaps += [(middle - each.score, each) for each in found]
    oddest = max(gaps, key=lambda each: each[0])[1]
    return {STAND_INS: InvertedSuccess(held_out, [oddest])}

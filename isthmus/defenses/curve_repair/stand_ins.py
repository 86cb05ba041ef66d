"""What stands in for the attacker's trigger, for rules that want to watch one."""

from __future__ import annotations

from math import log
from statistics import median

from torch import nn

from isthmus.data.dataset import Data
from isthmus.defenses.inspection.found_triggers import (
    KINDS,
    Inverted,
    InvertedSuccess,
    Perturbation,
)
from isthmus.defenses.inspection.inversion import invert
from isthmus.defenses.unlearning.perturbations import universal_perturbations
from isthmus.defenses.unlearning.unlearn import SHARE, UNLEARNING
from isthmus.metrics.success import AttackSuccess
from isthmus.training.suited import suited_augmentation
from isthmus.types import Metric

STAND_INS = "inverted trigger success"
UNIVERSAL = "universal perturbation success"

SEARCH_STEPS = 100
"""The gradients of the search for universal perturbations."""


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


def universal_stand_ins(tampered: nn.Module, fitted: Data, held_out: Data) -> dict[str, Metric]:
    """Return a stand-in for the attack success rate that 100 gradients find: how well the oddest
    universal perturbations still work.

    They are found on the tampered network from the samples that train, fine and smooth ones, see
    `universal_perturbations`. Of each kind, that of the class which needs the smallest radius is
    applied to the held-out samples, and the more successful of the two counts. Source: ours;
    docs/results/trained.md. Raises BadInput for fewer than two classes.
    """
    augment = suited_augmentation(tampered, fitted)
    search = UNLEARNING.replace(steps=SEARCH_STEPS, augment=augment)
    perturbations = universal_perturbations(tampered, fitted, search, share=SHARE)
    odd = []
    for kind, target in enumerate(perturbations.oddest):
        trigger = Perturbation(perturbations.values[kind, target].cpu())
        radius = float(perturbations.radii[kind, target])
        odd.append(
            Inverted(
                trigger,
                target,
                "perturbation",
                size=radius,
                score=log(radius / float(perturbations.typical_radii[kind])),
                success=AttackSuccess(fitted, trigger, target)(tampered),
            )
        )
    return {UNIVERSAL: InvertedSuccess(held_out, odd)}

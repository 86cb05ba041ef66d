"""Which of the ways to repair a network is handed over.

Universal perturbations tell on most backdoors: the one toward the attacker's class is oddly small.
Where they are sure of a class, the network unlearns what leads to that class, and little else
changes. Where they are not, it makes two moves at once: along a curve to a permuted copy, on which
patches and waves are lost, and by unlearning what leads to the suspect class, or to any class where
none is odd, which loses patterns that are blended over the image. Measured in docs/experiments.md
(one class, and two moves in one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from isthmus.data.splits import Parts
from isthmus.defenses.curve_repair.both_moves import (
    OF_SUSPICION,
    PART,
    farthest_changing,
    moved_as_well,
)
from isthmus.defenses.curve_repair.candidates import SETTLED, Candidate, working_stand_ins
from isthmus.defenses.curve_repair.repaired import Repair
from isthmus.defenses.curve_repair.rules import (
    TRAINED_TOO,
    Choice,
    Rule,
    fixed,
    lowered,
    settled,
    up_to,
)
from isthmus.defenses.curve_repair.stand_ins import Suspect, suspect_of, watched_among
from isthmus.defenses.curve_repair.training import Untrained
from isthmus.defenses.curve_repair.unlearned import ALMOST
from isthmus.defenses.curve_repair.ways import follow
from isthmus.defenses.unlearning.unlearn import UniversalUnlearning
from isthmus.metrics.names import DIVERGENCE, UNIVERSAL
from isthmus.metrics.path import Path
from isthmus.models.batchnorm import recalibrated_layers
from isthmus.runs.notices import notice
from isthmus.training.state import Diverged
from isthmus.types import Metric

BY_BOTH = 0.85
"""The part that both moves go to: at 0.6 of it a sixth of a blend was left on a network that fits
its data (docs/experiments.md, two moves in one)."""

SUSPECTED_FROM = 0.4
"""The t that both moves begin at where stand-ins toward a suspect class say how far to go."""

UNLEARNED = 0.01
"""The part of a stand-in's fall that may be left on the path to an unlearned copy: next to nothing,
since the backdoor of an attacker who hardened it falls later than its stand-ins there
(docs/experiments.md, where it was chosen)."""


def first_acceptable(ways: Sequence[Candidate], tampered: nn.Module, parts: Parts) -> Repair:
    """Return the repair by the first way without an objection, or else by the last; one that does
    not train is passed over. A way near the network and the next one are decided on together.
    """
    left, rejected = list(ways), list[Repair]()
    while True:
        way, *left = left
        try:
            if way.near and left:
                repaired, *others = near_or_unlearned(way, left.pop(0), tampered, parts)
            else:
                repaired, *others = [follow_suspicion(way, tampered, parts)]
        except (Diverged, Untrained) as error:
            if not left:
                raise
            notice(f"{error.got}; another way is tried")
            continue
        rejected += others
        if not repaired.objection or not left:
            return replace(repaired, rejected=tuple(rejected))
        notice(f"{repaired.endpoint.spoken} {repaired.objection}; another way is tried")
        rejected.append(repaired)


def near_or_unlearned(
    way: Candidate, after: Candidate, tampered: nn.Module, parts: Parts
) -> list[Repair]:
    """Return the repair by a way near the network, by an unlearned copy, or by both moves; then the
    others that were followed, with what speaks against them.

    Of two networks the curve between them is taken where it loses the stand-ins, and nothing else
    is followed then. Of one network the unlearned copy is, where stand-ins are sure of a class.
    Raises `Diverged` or `Untrained` where no way trains.
    """
    metrics = way.selection.metrics(tampered, parts)
    # of two networks stand-ins lead to several classes
    suspect = suspect_of(metrics) if way.of_one else None
    unlearned = None
    if suspect is not None and suspect.sure:
        try:
            unlearned = follow_suspicion(after, tampered, parts, metrics)
        except (Diverged, Untrained) as error:
            notice(f"{error.got}; another way is tried")
            return [follow(way, tampered, parts, metrics=metrics)]
        if not unlearned.objection:
            return [unlearned]
        notice(f"{unlearned.endpoint.spoken} {unlearned.objection}; another way is tried")
    try:
        near = follow(way, tampered, parts, metrics=metrics)
    except (Diverged, Untrained) as error:
        notice(f"{error.got}; another way is tried")
        return [unlearned or follow(toward(after, suspect), tampered, parts, metrics=metrics)]
    if not way.of_one:
        if not near.objection:
            return [near]
        notice(f"{near.endpoint.spoken} {near.objection}; another way is tried")
    try:
        unlearned = unlearned or follow(toward(after, suspect), tampered, parts, metrics=metrics)
    except (Diverged, Untrained) as error:
        if near.objection and not way.of_one:
            raise
        kept = "another way is tried" if near.objection else "the curve is kept"
        notice(f"{error.got}; {kept}")
        return [near]
    return moved_by_both(near, unlearned, after, tampered, suspect)


def follow_suspicion(
    way: Candidate,
    tampered: nn.Module,
    parts: Parts,
    metrics: Mapping[str, Metric] | None = None,
) -> Repair:
    """Return the repair by a way. Where it leads to an unlearned copy and stand-ins are sure of a
    class, the copy unlearns what leads to that class alone, and the repair is the point where the
    stand-ins are lost.
    """
    if metrics is None:
        metrics = way.selection.metrics(tampered, parts)
    suspect = suspect_of(metrics)
    if not way.by_suspicion or suspect is None or not suspect.sure:
        return follow(way, tampered, parts, metrics=metrics)
    lost = lowered(settled(watched_among(metrics) or UNIVERSAL, UNLEARNED, otherwise=ALMOST.high))
    way = replace(toward(way, suspect), selection=replace(way.selection, rule=lost))
    found = follow(way, tampered, parts, metrics=metrics)
    objection = found.objection or working_stand_ins(found.path, found.t)
    return replace(found, objection=objection)


def toward(way: Candidate, suspect: Suspect | None) -> Candidate:
    """Return the way to an unlearned copy that unlearns what leads to a suspect class alone."""
    if suspect is None or not isinstance(way.other, UniversalUnlearning):
        return way
    return replace(way, other=replace(way.other, of=suspect.by, toward=suspect.target))


def moved_by_both(
    near: Repair, unlearned: Repair, after: Candidate, tampered: nn.Module, suspect: Suspect | None
) -> list[Repair]:
    """Return the repair by both moves, and the two that it is made of; that by unlearning alone
    where the network has no BatchNorm, see `both_moves`, or their sum has no finite outputs.
    """
    objection = unlearned.objection or after.objection(unlearned.path, unlearned.t)
    one_move = "is one of the two moves"
    near = replace(near, objection=near.objection or one_move)
    alone = [replace(unlearned, objection=objection), near]
    if not recalibrated_layers(tampered):
        return alone
    change = change_of(unlearned)
    if suspect is None:
        part, rule, route = PART, as_far_as(BY_BOTH * change, near.parts), ALMOST
    else:
        part, rule = OF_SUSPICION, where_suspected(suspect, near.parts)
        route = ALMOST.replace(low=SUSPECTED_FROM)
    end = moved_as_well(unlearned.endpoint, near, tampered, change=part * change)
    selection = replace(after.selection, rule=rule)
    sum_of_both = replace(after, other=end, selection=selection, route=route)
    try:
        both = follow(sum_of_both, tampered, near.parts, metrics=near.metrics)
    except (Diverged, Untrained) as error:
        notice(f"{error.got}; {unlearned.endpoint.spoken} is taken")
        return alone
    return [both, replace(unlearned, objection=unlearned.objection or one_move), near]


def where_suspected(suspect: Suspect, parts: Parts) -> Rule:
    """Return the rule: the first point of a path where the stand-ins that lead to a suspect class
    are lost.

    Not confident: they may stand for no trigger, or unlearning alone did not lose them.
    """
    doubt = f"class {suspect.target} is suspect, and "
    doubt += "unlearning alone did not serve" if suspect.sure else "not beyond doubt"

    def rule(path: Path) -> Choice:
        lost = settled(watched_among(path.values) or UNIVERSAL, SETTLED, otherwise=ALMOST.high)
        found = lowered(lost)(path) if parts.disjoint else lost(path)
        reason = f"cannot tell: {doubt}; {found.reason}"
        reason += "" if parts.disjoint else f"; {TRAINED_TOO}"
        told = f"where_suspected({found.rule})"
        return Choice(float(found), rule=told, reason=reason, confident=False)

    return rule


def as_far_as(change: float, parts: Parts) -> Rule:
    """Return the rule: the farthest point of a path that changes answers by that much or less, or
    one before it that costs less.

    Not confident: nothing that was measured says that it is far enough.
    """

    def rule(path: Path) -> Choice:
        far = farthest_changing(path, change)
        cheap = up_to(far)(path) if parts.disjoint else fixed(far)(path)
        here = path.at(float(cheap))[DIVERGENCE]
        taken = cheap.reason if parts.disjoint else f"took t = {cheap.t:g}; {TRAINED_TOO}"
        reason = (
            f"cannot tell: nothing shows which of two moves serves; {taken}; answers change by "
            f"{here:.3g} nats; the limit is {change:.3g}"
        )
        return Choice(cheap.t, rule=f"as_far_as({change:.3g})", reason=reason, confident=False)

    return rule


def change_of(unlearned: Repair) -> float:
    """Return how far an unlearned copy moves answers, in nats, where the path to it is left."""
    return float(unlearned.path.at(ALMOST.high)[DIVERGENCE])

"""Which of the ways to repair a network is handed over.

Universal perturbations tell on most backdoors: the one toward the attacker's class is oddly small.
Where they are sure of a class, the network unlearns what leads to that class, and little else
changes. Where they are not, a curve to a permuted copy is trained near the network, and what its
first step loses tells on more of them: such a small change leaves ordinary perturbations what they
are. Where a class is suspect by that, or odd with a doubt, the network makes two moves at once:
along the curve, on which patches and waves are lost, and by unlearning what leads to that class,
which loses patterns that are blended over the image. Where no class is, it goes a little along the
curve. Measured in docs/experiments.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn

from isthmus.data.splits import Parts
from isthmus.defenses.curve_repair.both_moves import (
    OF_SUSPICION,
    farthest_changing,
    moved_as_well,
)
from isthmus.defenses.curve_repair.candidates import (
    NEAR,
    PROBES,
    SETTLED,
    Candidate,
    costly,
    costly_end_or_stand_ins,
    working_stand_ins,
)
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
from isthmus.defenses.curve_repair.stand_ins import (
    Suspect,
    lost_stand_ins,
    suspect_of,
    suspicion,
    watched_among,
    with_stand_ins,
    without_stand_ins,
)
from isthmus.defenses.curve_repair.training import Untrained
from isthmus.defenses.curve_repair.unlearned import ALMOST
from isthmus.defenses.curve_repair.ways import chosen, follow, train
from isthmus.defenses.inspection.found_triggers import Inverted
from isthmus.defenses.unlearning.unlearn import UniversalUnlearning
from isthmus.metrics.accuracy import Accuracy
from isthmus.metrics.names import DIVERGENCE, UNIVERSAL
from isthmus.metrics.path import Path
from isthmus.metrics.values import least_drop
from isthmus.runs.notices import notice
from isthmus.runs.wording import percent
from isthmus.training.state import Diverged
from isthmus.types import Metric

T = TypeVar("T")

MILD = 0.075
"""How far answers may move on a curve where no class is suspect, in nats: patches and waves are
lost there, for a point or two (docs/experiments.md, where nothing is odd)."""

ONE_MOVE = "is one of the two moves"
"""What speaks against a repair that another one is made of."""

OWN = 0.2
"""The drop of accuracy on a suspect class's own samples that speaks against a repair."""

LOST_FROM = 0.6
"""The t that both moves begin at where stand-ins say how far to go that a small change of the
network has lost: they are lost a little before a wave (docs/experiments.md)."""

UNLEARNED = 0.01
"""The part of a stand-in's fall that may be left on the path to an unlearned copy: next to nothing,
since the backdoor of an attacker who hardened it falls later than its stand-ins there
(docs/experiments.md, where it was chosen)."""


def first_acceptable(ways: Sequence[Candidate], tampered: nn.Module, parts: Parts) -> Repair:
    """Return the repair by the first way without an objection, or else `the_least_bad`; one that
    does not train is passed over. A way near the network and the next one are decided on together.
    """
    left, rejected = list(ways), list[Repair]()
    while True:
        way, *left = left
        try:
            if way.near:
                repaired, *others = near_or_unlearned(way, left.pop(0), tampered, parts)
            else:
                repaired, *others = [follow_suspicion(way, tampered, parts)]
        except (Diverged, Untrained) as error:
            if not left:
                raise
            notice(f"{error.got}; another way is tried")
            continue
        rejected += others
        if not repaired.objection:
            last_resort = rejected and not (way.near or way.by_suspicion)
            handed = unproven(repaired) if last_resort else repaired
            return replace(handed, rejected=tuple(rejected))
        if not left:
            return the_least_bad([*rejected, repaired])
        notice(f"{repaired.endpoint.spoken} {repaired.objection}; another way is tried")
        rejected.append(repaired)


def the_least_bad(repairs: Sequence[Repair]) -> Repair:
    """Return of repairs that are all objected to the one whose stand-ins work least, or the last
    where there are none. It claims nothing.
    """

    def left(repaired: Repair) -> float:
        name = watched_among(repaired.path.values)
        return 0.0 if name is None else float(repaired.path.at(float(repaired.t))[name])

    whole = [each for each in repairs if each.objection != ONE_MOVE]
    *_, least = sorted(whole, key=left, reverse=True)
    others = tuple(each for each in repairs if each is not least)
    return replace(least, t=doubted(least.t, f"it {least.objection}"), rejected=others)


def unproven(repaired: Repair) -> Repair:
    """Return a repair whose choice is not confident, since nothing showed what it has to lose."""
    if not repaired.t.confident:
        return repaired
    doubt = "nothing shows beyond doubt what a trigger would lead to"
    return replace(repaired, t=doubted(repaired.t, doubt))


def doubted(choice: Choice, doubt: str) -> Choice:
    """Return a choice that is not confident, for the reason given."""
    reason = f"cannot tell: {doubt}; {choice.reason.removeprefix('cannot tell: ')}"
    return Choice(float(choice), rule=choice.rule, reason=reason, confident=False)


def near_or_unlearned(
    way: Candidate, after: Candidate, tampered: nn.Module, parts: Parts
) -> list[Repair]:
    """Return the repair by an unlearned copy, by a way near the network, or by both moves; then the
    others that were followed, with what speaks against them.

    The unlearned copy is taken where stand-ins are sure of a class, and nothing else is followed
    then; the way near the network where no class is suspect. Raises `Diverged` or `Untrained` where
    no way trains.
    """
    metrics = way.selection.metrics(tampered, parts)
    suspect, unlearned = suspect_of(metrics), None
    if suspect is not None and suspect.sure:
        unlearned = if_it_trains(lambda: follow_suspicion(after, tampered, parts, metrics))
        if unlearned is not None and not unlearned.objection:
            return [unlearned]
        if unlearned is not None:
            notice(f"{unlearned.endpoint.spoken} {unlearned.objection}; another way is tried")
    found = if_it_trains(lambda: follow_near(way, tampered, parts, metrics, suspect))
    if found is None:
        return [unlearned or follow(toward(after, suspect), tampered, parts, metrics=metrics)]
    near, suspect = found
    if suspect is None:
        return [as_far_as_it_may(near)]
    aim = toward(after, suspect)
    unlearned = unlearned or if_it_trains(
        lambda: follow(aim, tampered, parts, metrics=near.metrics)
    )
    if unlearned is None:
        return [as_far_as_it_may(near)]
    if doubt := forgotten(unlearned, tampered, suspect):
        notice(f"{unlearned.endpoint.spoken} {doubt}: it was suspected wrongly")
        return [as_far_as_it_may(near), replace(unlearned, objection=doubt)]
    return moved_by_both(near, unlearned, after, tampered, suspect)


def if_it_trains(work: Callable[[], T]) -> T | None:
    """Return what the work returns; None, and a notice, where a training has failed."""
    try:
        return work()
    except (Diverged, Untrained) as error:
        notice(f"{error.got}; another way is tried")
        return None


def follow_near(
    way: Candidate,
    tampered: nn.Module,
    parts: Parts,
    metrics: Mapping[str, Metric],
    suspect: Suspect | None,
) -> tuple[Repair, Suspect | None]:
    """Return the repair by a way near the network, and the suspect class.

    What the first step of the curve loses is searched for. Where that leads to one class beyond
    doubt, that is the suspect one, and is watched on the curve.
    """
    it = train(way, tampered, parts)
    lost: list[Inverted] = []
    for t in PROBES if suspect is None or not suspect.sure else ():
        lost = lost or lost_stand_ins(tampered, it.networks.at(t), parts.fitted, way.training)
    if not lost:
        return chosen(way, it, parts, metrics), suspect
    notice(suspicion(lost[0], parts.fitted.names))
    found = Suspect((int(lost[0].target),), sure=True, lost=True)
    if suspect is None or suspect.targets != found.targets:  # which was in doubt
        metrics = without_stand_ins(metrics)
    return chosen(way, it, parts, with_stand_ins(metrics, lost, parts)), found


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
        found = follow(way, tampered, parts, metrics=metrics)
        return unproven(found) if way.by_suspicion else found
    lost = lowered(settled(watched_among(metrics) or UNIVERSAL, UNLEARNED, otherwise=ALMOST.high))
    way = replace(toward(way, suspect), selection=replace(way.selection, rule=lost))
    found = follow(way, tampered, parts, metrics=metrics)
    objection = found.objection or working_stand_ins(found.path, found.t)
    return replace(found, objection=objection or forgotten(found, tampered, suspect))


def forgotten(found: Repair, tampered: nn.Module, suspect: Suspect) -> str:
    """Return an objection where a repair costs a suspect class its own samples beyond doubt: what
    it has unlearned is then what the class looks like, and no trigger.
    """
    samples = found.parts.whole
    for target in suspect.targets:
        own = samples[samples.y == target]
        if len(own):
            before, after = (Accuracy(own)(network) for network in (tampered, found.model))
            if least_drop(before, after) > OWN:
                kept = f"{percent(after)} of {percent(before)}"
                return f"cost class {samples.names[target]} its own samples ({kept} are right)"
    return ""


def toward(way: Candidate, suspect: Suspect | None) -> Candidate:
    """Return the way to an unlearned copy that unlearns what leads to suspect classes alone."""
    if suspect is None or not isinstance(way.other, UniversalUnlearning):
        return way
    return replace(way, other=replace(way.other, of=suspect.by, toward=suspect.targets))


def as_far_as_it_may(near: Repair) -> Repair:
    """Return the repair near the network at the farthest point that changes answers by `MILD`."""
    t = as_far_as(MILD, near.parts)(near.path)
    return replace(near, t=t, model=near.networks.at(float(t)), objection=costly(near.path, t))


def moved_by_both(
    near: Repair, unlearned: Repair, after: Candidate, tampered: nn.Module, suspect: Suspect
) -> list[Repair]:
    """Return the repair by both moves, and the two that it is made of; that by unlearning alone
    where their sum has no finite outputs.
    """
    sum_of_both = where_suspected(after, suspect, near.parts)
    t = float(near.t)
    if not suspect.lost:
        change = float(unlearned.path.at(ALMOST.high)[DIVERGENCE])
        t = farthest_changing(near.path, OF_SUSPICION * change, within=NEAR.high)
    end = moved_as_well(unlearned.endpoint, near, tampered, t=t)
    near = replace(near, objection=near.objection or ONE_MOVE)
    try:
        both = follow(replace(sum_of_both, other=end), tampered, near.parts, metrics=near.metrics)
    except (Diverged, Untrained) as error:
        notice(f"{error.got}; {unlearned.endpoint.spoken} is taken")
        objection = unlearned.objection or after.objection(unlearned.path, unlearned.t)
        return [unproven(replace(unlearned, objection=objection)), near]
    both = replace(both, objection=both.objection or forgotten(both, tampered, suspect))
    return [both, replace(unlearned, objection=unlearned.objection or ONE_MOVE), near]


def where_suspected(after: Candidate, suspect: Suspect, parts: Parts) -> Candidate:
    """Return the way to the first point of a straight path where the stand-ins that lead to a
    suspect class are lost.

    Its choice is not confident: they may stand for no trigger, or for a part of one, or unlearning
    alone did not lose them.
    """
    doubt = f"class {' and '.join(parts.fitted.names[c] for c in suspect.targets)} is suspect, "
    if suspect.lost:
        doubt += "by what a small change of the network loses"
    else:
        doubt += "and " + ("unlearning alone did not serve" if suspect.sure else "not beyond doubt")

    def rule(path: Path) -> Choice:
        lost = settled(watched_among(path.values) or UNIVERSAL, SETTLED, otherwise=ALMOST.high)
        found = lowered(lost)(path) if parts.disjoint else lost(path)
        reason = f"cannot tell: {doubt}; {found.reason}"
        reason += "" if parts.disjoint else f"; {TRAINED_TOO}"
        told = f"where_suspected({found.rule})"
        return Choice(float(found), rule=told, reason=reason, confident=False)

    return replace(
        after,
        selection=replace(after.selection, rule=rule),
        route=ALMOST.replace(low=LOST_FROM) if suspect.lost else ALMOST,
        objection=costly_end_or_stand_ins,
    )


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
            f"cannot tell: nothing resembles a trigger; {taken}; answers change by "
            f"{here:.3g} nats; the limit is {change:.3g}"
        )
        return Choice(cheap.t, rule=f"as_far_as({change:.3g})", reason=reason, confident=False)

    return rule

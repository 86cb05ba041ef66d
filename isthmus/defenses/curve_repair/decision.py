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
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import TypeVar

import torch
from torch import nn

from isthmus.data.splits import Parts
from isthmus.defenses.curve_repair.both_moves import (
    OF_SUSPICION,
    farthest_changing,
    moved_as_well,
)
from isthmus.defenses.curve_repair.candidates import (
    LOST,
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
    BONAFIDE,
    TRAINED_TOO,
    Choice,
    Rule,
    fixed,
    later,
    lowered,
    settled,
    up_to,
    without_confidence,
)
from isthmus.defenses.curve_repair.stand_ins import (
    RECALIBRATED,
    Suspect,
    also_after_recalibration,
    lost_stand_ins,
    suspect_of,
    suspicion,
    toward_told,
    watched_among,
    with_stand_ins,
    without_stand_ins,
)
from isthmus.defenses.curve_repair.training import Untrained
from isthmus.defenses.curve_repair.unlearned import ALMOST, against_warps
from isthmus.defenses.curve_repair.ways import chosen, follow, train
from isthmus.defenses.unlearning.unlearn import UniversalUnlearning
from isthmus.metrics.accuracy import Accuracy
from isthmus.metrics.names import DIVERGENCE, UNIVERSAL
from isthmus.metrics.path import Path
from isthmus.metrics.values import least_drop
from isthmus.runs.notices import notice
from isthmus.runs.processes import share_from_first
from isthmus.training.state import Diverged
from isthmus.types import Metric

T = TypeVar("T")

MILD = 0.075
"""How far answers may move on a curve where no class is suspect, in nats: patches and waves are
lost there, for a point or two (docs/experiments.md, what a small step loses)."""

ONE_MOVE = "is one of the two moves"
"""What speaks against a repair that another one is made of."""

OWN = 0.2
"""The drop of accuracy on a suspect class's own samples that speaks against a repair."""

STEP_FROM = 0.6
"""The t that both moves begin at where stand-ins say how far to go that a small change of the
network has lost: they are lost a little before a wave (docs/experiments.md)."""

UNLEARNED = 0.002
"""The part of a stand-in's fall that may be left on the path to an unlearned copy: less than a
sample of a few hundred, since backdoors fall later than their stand-ins there (docs/experiments.md,
where it was chosen)."""


def first_acceptable(ways: Sequence[Candidate], tampered: nn.Module, parts: Parts) -> Repair:
    """Return the repair by the first way without an objection, or else `the_least_bad`; one that
    does not train is passed over. A way near the network and the next one are decided on together.
    """
    left, rejected = list(ways), list[Repair]()
    while left:
        way, *left = left
        try:
            if way.near:
                repaired, *others = near_or_unlearned(way, left.pop(0), tampered, parts)
            else:
                metrics = rejected[-1].metrics if rejected and not way.by_suspicion else None
                repaired, *others = [follow_suspicion(way, tampered, parts, metrics)]
        except (Diverged, Untrained) as error:
            if not left and not rejected:
                raise
            notice(f"{error.got}; another way is tried")
            continue
        rejected += others
        if len(ways) == 1:
            return repaired
        if not repaired.objection:
            last_resort = way is not ways[0] and not (way.near or way.by_suspicion)
            handed = unproven(repaired) if last_resort else repaired
            return replace(handed, rejected=tuple(rejected))
        notice(f"{repaired.endpoint.spoken} {repaired.objection}; another way is tried")
        rejected.append(repaired)
    return the_least_bad(rejected)


def the_least_bad(repairs: Sequence[Repair]) -> Repair:
    """Return of repairs that are all objected to the one whose stand-ins work least, those that
    cost too much after the others, or the last where nothing tells. It claims nothing.
    """

    def badness(repaired: Repair) -> tuple[float, float]:
        here = repaired.path.at(float(repaired.t))
        name = watched_among(here)
        lost = 1 - here[BONAFIDE] if costly(repaired.path, repaired.t) else 0.0
        return lost, inf if name is None else here[name]

    whole = [each for each in repairs if each.objection != ONE_MOVE]
    *_, least = sorted(whole, key=badness, reverse=True)
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
    odd = suspect_of(metrics)
    sure = odd if odd is not None and odd.sure else None
    alone = partial(unlearned_beyond_doubt, after, tampered, parts)
    first = toward_suspects(alone, sure, tampered, metrics)
    if first.repaired is not None:
        if not first.repaired.objection:
            return first.followed
        notice(f"{first.repaired.endpoint.spoken} {first.repaired.objection}; another way is tried")
    found = if_it_trains(lambda: follow_near(way, tampered, parts, first.metrics))
    if found is None:
        return first.followed or [unlearned_alone(after, tampered, parts, first.metrics)]
    near, suspect = found
    last, wrong = first, first.wrong
    if first.suspect is None:
        in_doubt = partial(unlearned_in_doubt, after, tampered, parts)
        last = toward_suspects(in_doubt, suspect, tampered, near.metrics)
        near, wrong = replace(near, metrics=last.metrics), [*last.wrong, *first.wrong]
    if last.suspect is None:
        return [a_little_along(near), *wrong]
    if last.repaired is None:
        return [unproven(near), *wrong]
    return [*moved_by_both(near, last.repaired, after, tampered, last.suspect), *wrong]


@dataclass(frozen=True)
class Unlearned:
    """The repair by a copy that has unlearned what leads to the suspect classes, None where it does
    not train or none is suspect; the metrics, without stand-ins for classes that were suspected
    wrongly; and the repairs that showed it, the last one first.
    """

    repaired: Repair | None
    suspect: Suspect | None
    metrics: Mapping[str, Metric]
    wrong: list[Repair]

    @property
    def followed(self) -> list[Repair]:
        """All the repairs."""
        return [*([] if self.repaired is None else [self.repaired]), *self.wrong]


def toward_suspects(
    unlearn: Callable[[Suspect, Mapping[str, Metric]], Repair],
    suspect: Suspect | None,
    tampered: nn.Module,
    metrics: Mapping[str, Metric],
) -> Unlearned:
    """Return what came of unlearning what leads to the suspect classes, again without those that a
    repair shows to be suspected wrongly (`forgotten`).
    """
    wrong = list[Repair]()
    while suspect is not None:
        repaired = if_it_trains(partial(unlearn, suspect, metrics))
        wrongly = [] if repaired is None else forgotten(repaired, tampered, suspect.targets)
        if repaired is None or not wrongly:
            return Unlearned(repaired, suspect, metrics, wrong)
        wrong.insert(0, objected(repaired, wrongly))
        notice(f"{repaired.endpoint.spoken} {wrong[0].objection}; another way is tried")
        metrics, suspect = without_stand_ins(metrics, wrongly), suspect.without(wrongly)
    return Unlearned(None, None, metrics, wrong)


def if_it_trains(work: Callable[[], T]) -> T | None:
    """Return what the work returns; None, and a notice, where a training has failed."""
    try:
        return work()
    except (Diverged, Untrained) as error:
        notice(f"{error.got}; another way is tried")
        return None


def follow_near(
    way: Candidate, tampered: nn.Module, parts: Parts, metrics: Mapping[str, Metric]
) -> tuple[Repair, Suspect | None]:
    """Return the repair by a way near the network, and the suspect classes.

    What the first step of the curve loses is searched for. Where that leads to one class beyond
    doubt, that is a suspect one, beside one that was in doubt, and what leads there is watched.
    """
    way_there, suspect = train(way, tampered, parts), suspect_of(metrics)
    if suspect is not None and suspect.sure:
        return chosen(way, way_there, parts, metrics), suspect
    searches = (
        lost_stand_ins(tampered, way_there.networks.at(t), parts.fitted, way.training)
        for t in PROBES
    )
    lost = next(filter(None, searches), [])
    if not lost:
        return chosen(way, way_there, parts, metrics), suspect
    oddest = min(lost, key=lambda each: each.score)
    notice(f"by what a small step along a curve loses, {suspicion(oddest, parts.fitted.names)}")
    doubtful = () if suspect is None else suspect.targets
    targets = tuple(sorted({int(oddest.target), *doubtful}))
    suspect = Suspect(targets, sure=True, by_step=(int(oddest.target),))
    metrics = with_stand_ins(metrics, lost, parts)
    found = chosen(way, way_there, parts, toward_told(metrics, suspect))
    return replace(found, metrics=metrics), suspect


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
    if not way.by_suspicion:
        return follow(way, tampered, parts, metrics=metrics)
    suspect = suspect_of(metrics)
    if suspect is None or not suspect.sure:
        return unlearned_alone(way, tampered, parts, metrics)
    found = unlearned_beyond_doubt(way, tampered, parts, suspect, metrics)
    return objected(found, forgotten(found, tampered, suspect.targets))


def unlearned_beyond_doubt(
    after: Candidate,
    tampered: nn.Module,
    parts: Parts,
    suspect: Suspect,
    metrics: Mapping[str, Metric],
) -> Repair:
    """Return the repair by a copy that has unlearned what leads to suspect classes, at the point
    where their stand-ins are lost, and stay so after a recalibration.
    """
    rule = lowered(where_lost_for_good)
    way = replace(toward(after, suspect), selection=replace(after.selection, rule=rule))
    watched = also_after_recalibration(metrics, tampered, parts)
    found = follow(way, tampered, parts, metrics=watched)
    objection = found.objection or working_stand_ins(found.path, found.t)
    return replace(found, objection=objection)


def where_lost_for_good(path: Path) -> Choice:
    """Return the first point of a path to an unlearned copy where stand-ins are lost, and where a
    recalibration that may wake them does not.
    """
    names = [watched_among(path.values) or UNIVERSAL]
    if RECALIBRATED in path.values and max(path[RECALIBRATED][:-1]) > LOST:
        names.append(RECALIBRATED)
    return later(*(settled(name, UNLEARNED, otherwise=ALMOST.high) for name in names))(path)


def unlearned_in_doubt(
    after: Candidate,
    tampered: nn.Module,
    parts: Parts,
    suspect: Suspect,
    metrics: Mapping[str, Metric],
) -> Repair:
    """Return the repair by a copy that has unlearned what leads to suspect classes, at the point of
    the way to any copy.
    """
    told = toward_told(metrics, suspect)
    return follow(toward(after, suspect), tampered, parts, metrics=told)


def unlearned_alone(
    after: Candidate, tampered: nn.Module, parts: Parts, metrics: Mapping[str, Metric]
) -> Repair:
    """Return the repair by a copy that has unlearned what leads to any class, where nothing shows
    beyond doubt which one is the attacker's.
    """
    return unproven(follow(after, tampered, parts, metrics=metrics))


def forgotten(found: Repair, tampered: nn.Module, targets: Sequence[int]) -> list[int]:
    """Return the suspect classes whose own samples a repair costs beyond doubt: what it has
    unlearned is then what the class looks like, and no trigger.
    """
    samples, costs = found.parts.whole, torch.zeros(len(targets))
    for i, target in enumerate(targets):
        own = samples[samples.y == target]
        if len(own):
            before, after = (Accuracy(own)(network) for network in (tampered, found.model))
            costs[i] = least_drop(before, after)
    share_from_first([costs])  # ranks decide alike by them
    return [target for target, cost in zip(targets, costs, strict=True) if cost > OWN]


def objected(found: Repair, wrongly: Sequence[int]) -> Repair:
    """Return a repair with an objection where it has none and costs classes their own samples."""
    if found.objection or not wrongly:
        return found
    names = _spoken(wrongly, found.fitted.names)
    return replace(found, objection=f"cost class {names} its own samples")


def toward(way: Candidate, suspect: Suspect) -> Candidate:
    """Return the way to an unlearned copy that unlearns what leads to suspect classes alone; warps
    by more and larger steps.
    """
    if not isinstance(way.other, UniversalUnlearning):
        return way
    aimed = replace(way.other, of=suspect.by, toward=suspect.targets)
    return replace(way, other=against_warps(aimed) if suspect.by == "warps" else aimed)


def a_little_along(near: Repair) -> Repair:
    """Return the repair near the network at the farthest point that changes answers by `MILD`,
    where nothing is suspect.
    """
    t = without_confidence(as_far_as(MILD, near.parts)(near.path), near.parts)
    near = replace(near, metrics=without_stand_ins(near.metrics))
    return replace(near, t=t, model=near.networks.at(float(t)), objection=costly(near.path, t))


def moved_by_both(
    near: Repair, unlearned: Repair, after: Candidate, tampered: nn.Module, suspect: Suspect
) -> list[Repair]:
    """Return the repair by both moves, and the two that it is made of; that by unlearning alone
    where their sum has no finite outputs.
    """
    sum_of_both = where_suspected(after, suspect, near.parts)
    t = min(float(near.t), NEAR.high)
    if not suspect.by_step:
        change = float(unlearned.path.at(ALMOST.high)[DIVERGENCE])
        t = farthest_changing(near.path, OF_SUSPICION * change, within=NEAR.high)
    end = moved_as_well(unlearned.endpoint, near, tampered, t=t)
    try:
        metrics = toward_told(near.metrics, suspect)
        both = follow(replace(sum_of_both, other=end), tampered, near.parts, metrics=metrics)
    except (Diverged, Untrained) as error:
        notice(f"{error.got}; {unlearned.endpoint.spoken} is taken")
        works = costly_end_or_stand_ins(unlearned.path, unlearned.t)
        alone = replace(unlearned, objection=unlearned.objection or works)
        return [unproven(alone), near]
    one_move = [replace(each, objection=each.objection or ONE_MOVE) for each in (unlearned, near)]
    return [objected(both, forgotten(both, tampered, suspect.targets)), *one_move]


def where_suspected(after: Candidate, suspect: Suspect, parts: Parts) -> Candidate:
    """Return the way to the first point of a straight path where the stand-ins that lead to a
    suspect class are lost.

    Its choice is not confident: they may stand for no trigger, or for a part of one, or unlearning
    alone did not lose them.
    """
    doubt = _why(suspect, parts.fitted.names)

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
        route=ALMOST.replace(low=STEP_FROM) if suspect.by_step else ALMOST,
        objection=costly_end_or_stand_ins,
    )


def _spoken(classes: Sequence[int], names: Sequence[str]) -> str:
    return " and ".join(names[target] for target in classes)


def _why(suspect: Suspect, names: Sequence[str]) -> str:
    """Return which classes are suspect and by what, and which are merely in doubt beside them."""
    told = suspect.by_step or suspect.targets
    if suspect.by_step:
        why = "by what a small change of the network loses"
    else:
        why = "and " + ("unlearning alone did not serve" if suspect.sure else "not beyond doubt")
    doubtful = [target for target in suspect.targets if target not in told]
    beside = f", class {_spoken(doubtful, names)} in doubt" if doubtful else ""
    return f"class {_spoken(told, names)} is suspect, {why}{beside}"


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

"""Which of the ways to repair a network is handed over.

Near the network, on a curve to a permuted copy or to a second network, patches and waves are lost;
by unlearning, patterns that are blended over the image. Stand-ins for a trigger, where there are
any, tell which of the two serves, and where none tells the network moves by both. Measured in
docs/experiments.md (two moves in one).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from isthmus.data.splits import Parts
from isthmus.defenses.curve_repair.both_moves import farthest_changing, moved_as_well
from isthmus.defenses.curve_repair.candidates import (
    Candidate,
    costly_end,
    working_stand_ins,
)
from isthmus.defenses.curve_repair.repaired import Repair
from isthmus.defenses.curve_repair.rules import (
    TRAINED_TOO,
    Choice,
    Rule,
    fixed,
    going_on,
    lowered,
    settled,
    up_to,
    without_confidence,
)
from isthmus.defenses.curve_repair.stand_ins import NothingOdd
from isthmus.defenses.curve_repair.training import Untrained
from isthmus.defenses.curve_repair.unlearned import ALMOST
from isthmus.defenses.curve_repair.ways import follow
from isthmus.metrics.names import DIVERGENCE, SPARSE, UNIVERSAL
from isthmus.metrics.path import Path
from isthmus.models.batchnorm import recalibrated_layers
from isthmus.runs.notices import notice
from isthmus.runs.wording import percent
from isthmus.training.state import Diverged

BOUND, GOING_ON = 1 / 2, 1 / 3
"""The part of what unlearning changes the answers that a curve to a permuted copy may change them
by until stand-ins are lost, and the part that it goes on to from there: docs/experiments.md, where
they were chosen."""

UNGUIDED = 0.6
"""The part that a repair goes to on a curve where nothing tells how far is far enough."""

BY_BOTH = 0.9
"""The part that both moves go to: at 0.6 of it a sixth of a blend was left on a network that fits
its data (docs/experiments.md, two moves in one)."""

LEAST = 0.1
"""The t on a curve that it goes to at least where a sparse perturbation alone is odd: it tells that
a patch is there, and before that t most patches are not lost (docs/experiments.md)."""

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
                repaired, *others = [follow(way, tampered, parts)]
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
    is followed then. Raises `Diverged` or `Untrained` where no way trains.
    """
    try:
        near = follow(way, tampered, parts)
    except (Diverged, Untrained, NothingOdd) as error:
        notice(f"{error.got}; another way is tried")
        return [follow(after, tampered, parts)]
    if not way.of_one and not near.objection:
        return [near]
    if near.objection and UNIVERSAL in near.metrics:
        notice(f"{near.endpoint.spoken} {near.objection}; another way is tried")
    try:
        unlearned = follow(after, tampered, parts, metrics=near.metrics)
    except (Diverged, Untrained) as error:
        if near.objection and not way.of_one:
            raise
        kept = "another way is tried" if near.objection else "the curve is kept, without a bound"
        notice(f"{error.got}; {kept}")
        return [near]
    if way.of_one and UNIVERSAL in near.metrics:
        if near.objection:
            return where_unlearned(near, unlearned, after, tampered)
        return bounded(near, unlearned, way, after, tampered)
    if way.of_one and SPARSE in near.metrics:
        return of_a_patch(near, unlearned)
    return moved_by_both(near, unlearned, after, tampered)


def bounded(
    near: Repair, unlearned: Repair, way: Candidate, after: Candidate, tampered: nn.Module
) -> list[Repair]:
    """Return the repair on a curve that lost its stand-ins, as far as unlearning lets it go; the
    one by both moves where the curve changes too much.

    Where stand-ins for a trigger are lost, it may have changed the tampered network's answers by
    `BOUND` of what unlearning changes them: a curve on which they are lost later may keep the
    trigger, or costs more than it has to. Stand-ins are lost before the trigger itself, so it goes
    on to `GOING_ON` of that change: docs/experiments.md. An unlearned copy that costs too much, or
    does not lose the stand-ins itself, bounds nothing.
    """
    objection = unlearned.objection or working_stand_ins(unlearned.path, unlearned.t)
    if objection:
        notice(
            f"{unlearned.endpoint.spoken} {objection}; the repair on the curve before it is kept"
        )
        return [near, replace(unlearned, objection=objection)]
    here, changed = near.path.at(float(near.t))[DIVERGENCE], change_of(unlearned)
    if here > BOUND * changed:
        objection = (
            f"changed answers by {here:.3g} nats until universal perturbations had lost their "
            f"effect, more than {percent(BOUND)} of the {changed:.3g} nats that unlearning takes"
        )
        notice(f"{near.endpoint.spoken} {objection}; another way is tried")
        near = replace(near, objection=objection)
        why = "a curve that loses universal perturbations changes too much by itself"
        return moved_by_both(near, unlearned, after, tampered, why)
    objection = f"changed answers by {changed:.3g} nats, and this one by {here:.3g} at first"
    return [gone_on(near, way, GOING_ON * changed), replace(unlearned, objection=objection)]


def where_unlearned(
    near: Repair, unlearned: Repair, after: Candidate, tampered: nn.Module
) -> list[Repair]:
    """Return the repair at the point where unlearning loses the stand-ins that a curve has kept; by
    both moves where it keeps them too: then they stand for no trigger that either of them loses.
    """
    there = moved_by(unlearned, lowered(settled(UNIVERSAL, UNLEARNED, otherwise=ALMOST.high)))
    objection = there.objection or working_stand_ins(there.path, there.t)
    if not objection:
        return [there, near]
    notice(f"{there.endpoint.spoken} {objection}")
    why = "neither move alone loses the universal perturbations"
    return moved_by_both(near, unlearned, after, tampered, why)


def of_a_patch(near: Repair, unlearned: Repair) -> list[Repair]:
    """Return the repair on a curve where a sparse perturbation alone is odd, as far as unlearning
    lets it go, and the one by unlearning, which loses few such patches. Where the end of the curve
    costs too much accuracy, what comes before it has lost nothing.
    """
    why = "a sparse perturbation alone is odd, which shows a patch, and not where it is lost"
    rule = as_far_as(UNGUIDED * change_of(unlearned), why, near.parts, least=LEAST)
    there = moved_by(near, rule)
    objection = "loses few patches that only a sparse perturbation resembles"
    return [
        replace(there, objection=costly_end(near.path, there.t)),
        replace(unlearned, objection=unlearned.objection or objection),
    ]


def moved_by_both(
    near: Repair,
    unlearned: Repair,
    after: Candidate,
    tampered: nn.Module,
    why: str = "nothing shows which of two moves serves",
) -> list[Repair]:
    """Return the repair by both moves, and the two that it is made of; that by unlearning alone
    where the network has no BatchNorm, see `both_moves`, or their sum has no finite outputs.
    """
    alone = [replace(unlearned, objection=after.objection(unlearned.path, unlearned.t)), near]
    if not recalibrated_layers(tampered):
        return alone
    change = change_of(unlearned)
    end = moved_as_well(unlearned.endpoint, near, tampered, change=change)
    rule = as_far_as(BY_BOTH * change, why, near.parts)
    sum_of_both = replace(after, other=end, selection=replace(after.selection, rule=rule))
    try:
        both = follow(sum_of_both, tampered, near.parts, metrics=near.metrics)
    except (Diverged, Untrained) as error:
        notice(f"{error.got}; {unlearned.endpoint.spoken} is taken")
        return alone
    objection = unlearned.objection or "is one of the two moves"
    return [both, replace(unlearned, objection=objection), near]


def as_far_as(change: float, why: str, parts: Parts, *, least: float = 0.0) -> Rule:
    """Return the rule: the farthest point of a path that changes answers by that much or less, but
    `least` at least, or one before it that costs less.

    Not confident: nothing that was measured says that it is far enough.
    """

    def rule(path: Path) -> Choice:
        within = farthest_changing(path, change)
        far = max(within, least)
        cheap = up_to(far)(path) if parts.disjoint else fixed(far)(path)
        here = path.at(float(cheap))[DIVERGENCE]
        taken = cheap.reason if parts.disjoint else f"took t = {cheap.t:g}; {TRAINED_TOO}"
        changes = f"answers change by {here:.3g} nats; the limit is {change:.3g}"
        changes += f", exceeded so that t is at least {least:g}" if cheap > within else ""
        reason = f"cannot tell: {why}; {taken}; {changes}"
        return Choice(cheap.t, rule=f"as_far_as({change:.3g})", reason=reason, confident=False)

    return rule


def change_of(unlearned: Repair) -> float:
    """Return how far an unlearned copy moves answers, in nats, where the path to it is left."""
    return float(unlearned.path.at(ALMOST.high)[DIVERGENCE])


def gone_on(repaired: Repair, way: Candidate, change: float) -> Repair:
    """Return the repair farther along its curve: at the farthest point whose answers differ by that
    change or less, or the nearest before it that accuracy does not speak against.

    It stays where it is if the samples could not tell, or the way objects to that point.
    """
    if not repaired.t.confident:
        return repaired
    path = repaired.path
    far = max(float(repaired.t), farthest_changing(path, change))
    t = going_on(repaired.t, float(up_to(far)(path)))
    if t <= repaired.t or way.objection(path, t):
        return repaired
    return moved_to(repaired, t)


def moved_by(repaired: Repair, rule: Rule) -> Repair:
    """Return the repair at the point of its path that another rule takes."""
    return moved_to(repaired, without_confidence(rule(repaired.path), repaired.parts))


def moved_to(repaired: Repair, t: Choice) -> Repair:
    """Return the repair at another point of its path."""
    return replace(repaired, t=t, model=repaired.networks.at(float(t)))

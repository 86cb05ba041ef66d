"""Ways to repair a network are followed in their order, and one repair is handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from isthmus.curves.networks import PathNetworks
from isthmus.data.splits import Parts
from isthmus.defenses.curve_repair.candidates import BOUND, GOING_ON, Candidate
from isthmus.defenses.curve_repair.endpoints import resolve_endpoint
from isthmus.defenses.curve_repair.repaired import Repair
from isthmus.defenses.curve_repair.rules import going_on, without_confidence
from isthmus.defenses.curve_repair.stand_ins import NothingOdd
from isthmus.defenses.curve_repair.training import RETRIES, Untrained, trained_curve
from isthmus.metrics.accuracy import Divergence
from isthmus.metrics.names import DIVERGENCE
from isthmus.metrics.passes import NotFinite
from isthmus.metrics.path import evaluate_path
from isthmus.runs.folder import state_file
from isthmus.runs.notices import notice
from isthmus.runs.wording import percent
from isthmus.training.state import Diverged


def first_acceptable(ways: Sequence[Candidate], tampered: nn.Module, parts: Parts) -> Repair:
    """Return the repair by the first way without an objection, or else by the last; one that does
    not train, or that nothing could judge, is passed over.

    A way that is `bounded` goes as far as the next one lets it.
    """
    rejected: list[Repair] = []
    for way, after in zip(ways, [*ways[1:], None], strict=True):
        try:
            repaired = follow(way, tampered, parts)
        except (Diverged, Untrained, NothingOdd) as error:
            if after is None:
                raise
            notice(f"{error.got}; another way is tried")
            continue
        if not repaired.objection and way.bounded and after is not None:
            repaired, *others = bounded(repaired, after, tampered)
            rejected += others
            break
        if not repaired.objection or after is None:
            break
        notice(f"{repaired.endpoint.spoken} {repaired.objection}; another way is tried")
        rejected.append(repaired)
    return replace(repaired, rejected=tuple(rejected))


def bounded(holder: Repair, way: Candidate, tampered: nn.Module) -> list[Repair]:
    """Return the repair on a curve, as far as another way lets it go, and the one by that way; the
    other way round where the curve does not get far enough.

    Where stand-ins for a trigger are lost, it may have changed the tampered network's answers on
    the held-out samples by `BOUND` of what the other way changes them: a curve on which they are
    lost later may keep the trigger, or costs more than it has to. Stand-ins are lost before the
    trigger itself, so it goes on to `GOING_ON` of that change: docs/experiments.md.
    """
    try:
        other = follow(way, tampered, holder.parts)
    except (Diverged, Untrained) as error:
        notice(f"{error.got}; the {holder.endpoint.spoken} is kept")
        return [holder]
    if other.objection:
        return [holder, other]
    changed = Divergence(tampered, holder.held_out)(other.model)
    apart = holder.path[DIVERGENCE]
    here = holder.path.at(float(holder.t))[DIVERGENCE]
    if here > BOUND * changed:
        objection = (
            f"changed answers by {here:.3g} nats before stand-ins were lost, more than "
            f"{percent(BOUND)} of the {changed:.3g} of {other.endpoint.spoken}"
        )
        notice(f"{holder.endpoint.spoken} {objection}; {other.endpoint.spoken} is taken")
        return [other, replace(holder, objection=objection)]
    inner = [(t, d) for t, d in zip(holder.path.t, apart, strict=True) if t < 1]
    far = max([holder.t, *(t for t, d in inner if d <= GOING_ON * changed)])
    objection = f"changed answers by {changed:.3g} nats, at least {1 / BOUND:g} times as much"
    return [holder.at(going_on(holder.t, far)), replace(other, objection=objection)]


def follow(
    way: Candidate,
    tampered: nn.Module,
    parts: Parts,
    *,
    retries: int = RETRIES,
) -> Repair:
    """Return the repair by one way: make the endpoint, train the curve, measure it, choose t.

    A curve whose training fails is trained again with gentler settings, at most `retries` times.
    Raises `Diverged` where networks on the path have no finite outputs.
    """
    metrics = way.selection.metrics(tampered, parts)
    endpoint = resolve_endpoint(
        way.other, tampered, parts.fitted, way.training, state_file(way.home, "other")
    )
    trained = trained_curve(
        (tampered, endpoint.network),
        parts.fitted,
        way.route,
        way.training,
        after_step=way.after_step,
        home=way.home,
        retries=retries,
    )
    networks = PathNetworks(trained.curve, parts.fitted)
    try:
        path = evaluate_path(
            networks,
            metrics,
            way.selection.grid(way.route),
            folder=None if way.home is None else way.home / "points",
        )
    except NotFinite as error:
        raise Diverged(
            "networks on the path whose outputs are NaN or infinite",
            expected="finite outputs",
            fix=f"lower lr (now {trained.training.lr:g})",
        ) from error
    t = without_confidence(way.selection.rule_for(way.route, parts)(path), parts)
    model = networks.at(float(t))
    objection = way.objection(path, t)
    return Repair(model, t, networks, path, endpoint, trained, parts, objection=objection)

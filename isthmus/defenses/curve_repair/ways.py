"""Ways to repair a network are followed in their order, and one repair is handed over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from isthmus.curves.networks import PathNetworks
from isthmus.data.splits import Parts
from isthmus.defenses.curve_repair.candidates import BOUND, GOING_ON, Candidate, working_stand_ins
from isthmus.defenses.curve_repair.endpoints import resolve_endpoint
from isthmus.defenses.curve_repair.repaired import Repair
from isthmus.defenses.curve_repair.rules import going_on, up_to, without_confidence
from isthmus.defenses.curve_repair.stand_ins import NothingOdd
from isthmus.defenses.curve_repair.training import RETRIES, Untrained, trained_curve
from isthmus.metrics.names import DIVERGENCE
from isthmus.metrics.passes import NotFinite
from isthmus.metrics.path import evaluate_path
from isthmus.runs.folder import state_file
from isthmus.runs.notices import notice
from isthmus.runs.wording import percent
from isthmus.training.state import Diverged
from isthmus.types import Metric


def first_acceptable(ways: Sequence[Candidate], tampered: nn.Module, parts: Parts) -> Repair:
    """Return the repair by the first way without an objection, or else by the last; one that does
    not train, or that nothing could judge, is passed over.

    A way that is `bounded` goes as far as the next one lets it. Stand-ins that such a way has not
    lost tell how far to go on the next one; those of any other way tell nothing there.
    """
    rejected: list[Repair] = []
    metrics = None
    for way, after in zip(ways, [*ways[1:], None], strict=True):
        try:
            repaired = follow(way, tampered, parts, metrics=metrics)
        except (Diverged, Untrained, NothingOdd) as error:
            if after is None:
                raise
            notice(f"{error.got}; another way is tried")
            continue
        if not repaired.objection and way.bounded and after is not None:
            repaired, *others = bounded(repaired, way, after, tampered)
            rejected += others
            break
        if not repaired.objection or after is None:
            break
        notice(f"{repaired.endpoint.spoken} {repaired.objection}; another way is tried")
        rejected.append(repaired)
        metrics = repaired.metrics if way.bounded else None
    return replace(repaired, rejected=tuple(rejected))


def bounded(holder: Repair, first: Candidate, way: Candidate, tampered: nn.Module) -> list[Repair]:
    """Return the repair on a curve, as far as another way lets it go, and the one by that way; the
    other way round where the curve changes too much.

    Where stand-ins for a trigger are lost, it may have changed the tampered network's answers by
    `BOUND` of what the other way changes them: a curve on which they are lost later may keep the
    trigger, or costs more than it has to. Stand-ins are lost before the trigger itself, so it goes
    on to `GOING_ON` of that change: docs/experiments.md. Another way that cannot be followed, costs
    too much, or does not lose the stand-ins itself bounds nothing.
    """
    try:
        # stand-ins that a curve has lost may be lost too early on the other way as well
        other = follow(replace(way, told=None), tampered, holder.parts, metrics=holder.metrics)
    except (Diverged, Untrained) as error:
        notice(f"{error.got}; the repair on the curve before it is kept, without a bound")
        return [holder]
    objection = other.objection or working_stand_ins(other.path, other.t)
    if objection:
        notice(f"{other.endpoint.spoken} {objection}; the repair on the curve before it is kept")
        return [holder, replace(other, objection=objection)]
    changed = other.path.at(way.route.high)[DIVERGENCE]
    here = holder.path.at(float(holder.t))[DIVERGENCE]
    if here > BOUND * changed:
        objection = (
            f"changed answers by {here:.3g} nats before stand-ins were lost, more than "
            f"{percent(BOUND)} of {changed:.3g} nats ({other.endpoint.spoken})"
        )
        notice(f"{holder.endpoint.spoken} {objection}; the other way is taken")
        return [other, replace(holder, objection=objection)]
    objection = f"changed answers by {changed:.3g} nats, and this one by {here:.3g} at first"
    return [gone_on(holder, first, GOING_ON * changed), replace(other, objection=objection)]


def gone_on(repaired: Repair, way: Candidate, change: float) -> Repair:
    """Return the repair farther along its curve: at the farthest point whose answers differ by that
    change or less, or the nearest before it that accuracy does not speak against.

    It stays where it is if the samples could not tell, or the way objects to that point.
    """
    if not repaired.t.confident:
        return repaired
    path = repaired.path
    inner = [(t, d) for t, d in zip(path.t, path[DIVERGENCE], strict=True) if 0 < t < 1]
    far = max([float(repaired.t), *(t for t, d in inner if d <= change)])
    t = going_on(repaired.t, float(up_to(far)(path)))
    if t <= repaired.t or way.objection(path, t):
        return repaired
    return replace(repaired, t=t, model=repaired.networks.at(float(t)))


def follow(
    way: Candidate,
    tampered: nn.Module,
    parts: Parts,
    *,
    retries: int = RETRIES,
    metrics: Mapping[str, Metric] | None = None,
) -> Repair:
    """Return the repair by one way: make the endpoint, train the curve, measure it, choose t.

    `metrics`, those of the way before, are measured in place of those of its selection, and then t
    is chosen by the rule that reads them, where the way has one. A curve whose training fails is
    trained again with gentler settings, at most `retries` times. Raises `Diverged` where networks
    on the path have no finite outputs.
    """
    rule = way.selection.rule_for(way.route, parts)
    if metrics is None:
        metrics = way.selection.metrics(tampered, parts)
    elif way.told is not None:
        rule = way.told
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
    t = without_confidence(rule(path), parts)
    model = networks.at(float(t))
    objection = way.objection(path, t)
    return Repair(model, t, networks, path, endpoint, trained, parts, metrics, objection=objection)

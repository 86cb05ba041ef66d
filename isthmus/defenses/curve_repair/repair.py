"""`repair`: second endpoint, curve, path, choice, network. It receives bonafide data and nothing
else.

Source: Zhao et al., ICLR 2020, section 3.

Where we depart: the curve is trained as `connect` does, and t is drawn where the answer is sought;
the point is chosen by a rule on bonafide samples that the curve was not trained on, instead of by a
fixed t or by the attacker's trigger; with one checkpoint the second endpoint is made: a permuted
copy, and a repaired network itself, which has unlearned universal perturbations, and to which the
path is straight, and which says how far the curve may go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Any

from torch import nn

from isthmus.curves.curve import Curve
from isthmus.curves.networks import PathNetworks
from isthmus.curves.route import Route, route_and_training
from isthmus.data.dataset import Data, Source
from isthmus.data.splits import Parts
from isthmus.defenses.curve_repair.candidates import BOUND, GOING_ON, Candidate, candidates
from isthmus.defenses.curve_repair.endpoints import Endpoint, resolve_endpoint
from isthmus.defenses.curve_repair.preflight import Preflight, preflight
from isthmus.defenses.curve_repair.rules import (
    BONAFIDE,
    TOLERANCE,
    Choice,
    going_on,
    without_confidence,
)
from isthmus.defenses.curve_repair.selection import Selection
from isthmus.defenses.curve_repair.stand_ins import NothingOdd
from isthmus.defenses.curve_repair.training import (
    RETRIES,
    TrainedCurve,
    Untrained,
    trained_curve,
)
from isthmus.metrics.accuracy import Divergence
from isthmus.metrics.names import DIVERGENCE
from isthmus.metrics.passes import NotFinite
from isthmus.metrics.path import Path, evaluate_path
from isthmus.metrics.values import least_drop
from isthmus.models.batchnorm import tell_of_frozen_statistics
from isthmus.runs.folder import state_file
from isthmus.runs.identity import identity_of
from isthmus.runs.notices import notice
from isthmus.training.budget import History, Training
from isthmus.training.hooks import AfterStep
from isthmus.training.losses import cross_entropy
from isthmus.training.options import sorted_options
from isthmus.training.precision import with_decided_precision
from isthmus.training.state import Diverged
from isthmus.types import Defense


@dataclass(frozen=True, eq=False)
class Repair:
    """A repaired network and how it came about.

    `model` is an ordinary module in eval mode with the state-dict keys of the tampered one: the
    network at `t` of `networks`, which were recalibrated on `parts.fitted` alone. `path` was
    measured on `parts.held_out`, which the curve was not trained on. `rejected` are the other
    repairs that were tried; `objection` says why one was not good enough. `preflight` is what was
    known before any of them.
    """

    model: nn.Module
    t: Choice
    networks: PathNetworks = field(repr=False)
    path: Path
    endpoint: Endpoint
    trained: TrainedCurve = field(repr=False)
    parts: Parts = field(repr=False)
    rejected: tuple[Repair, ...] = ()
    objection: str = ""
    preflight: Preflight | None = field(default=None, repr=False)

    def at(self, t: Choice) -> Repair:
        """Return the repair at another point of its curve."""
        return replace(self, t=t, model=self.networks.at(float(t)))

    @property
    def curve(self) -> Curve:
        """The curve that the network is a point of."""
        return self.networks.curve

    @property
    def route(self) -> Route:
        """How the curve leads from one end to the other."""
        return self.trained.route

    @property
    def training(self) -> Training:
        """How the curve was trained."""
        return self.trained.training

    @property
    def history(self) -> History | None:
        """How the training of the curve went; None where nothing was trained."""
        return self.trained.history

    @property
    def other(self) -> nn.Module:
        """The network at t = 1."""
        return self.endpoint.network

    @property
    def fitted(self) -> Data:
        """The bonafide samples that the curve was trained on."""
        return self.parts.fitted

    @property
    def held_out(self) -> Data:
        """The bonafide samples that chose t: those of `fitted` where there are too few."""
        return self.parts.held_out

    @property
    def second(self) -> str:
        """Where the network at t = 1 comes from, in words."""
        rejected = [f"{repair.endpoint.spoken} {repair.objection}" for repair in self.rejected]
        return ", because ".join([self.endpoint.source, *rejected])

    @property
    def spent(self) -> int:
        """How many gradients were taken besides those of the curve's last training."""
        rejected = sum(repair.gradients for repair in self.rejected)
        return self.endpoint.gradients + self.trained.wasted + rejected

    @property
    def gradients(self) -> int:
        """How many gradients were taken in all, by trainings: searches of a rule do not count."""
        steps = self.history.steps if self.history is not None else 0
        return self.spent + steps * self.route.cost

    @property
    def settings(self) -> dict[str, object]:
        """How the curve was made, by name, for a report."""
        route = self.route
        settings: dict[str, object] = {
            "kind": route.kind.__name__,
            "bends": route.bends,
            "weight_decay": self.training.weight_decay,
            "holdout": self.parts.share,
            "low": route.low,
            "high": route.high,
        }
        if route.bends:  # without them nothing is trained by these
            settings |= {
                "rho": route.rho,
                "adaptive": route.adaptive,
                "clip": self.training.clip,
            }
            if route.loss is not cross_entropy:
                settings["loss"] = identity_of(route.loss)
        return settings

    @property
    def damaged(self) -> bool:
        """Whether held-out samples show beyond doubt that even the most accurate inner point costs
        too much.
        """
        values = self.path[BONAFIDE]
        inner = [v for t, v in zip(self.path.t, values, strict=True) if 0 < t < 1 or t == self.t]
        return min(least_drop(max(values), value) for value in inner) > TOLERANCE


def repair(
    tampered: nn.Module,
    bonafide: Source | Parts,
    other: nn.Module | Defense | None = None,
    *,
    route: Route | None = None,
    training: Training | None = None,
    selection: Selection | None = None,
    after_step: AfterStep | None = None,
    folder: str | File | None = None,
    **options: Any,
) -> Repair:
    """Return a repaired network: the point that a rule chooses on a curve from `tampered` (t = 0)
    to `other` (t = 1).

    `other` is a network, or a defense that makes one of the tampered network and the bonafide
    samples. `options` are fields of `Route` (kind, bends, loss, rho, adaptive, low, high), of
    `Selection` (rule, watch, points, holdout) and of `Training` (steps, lr, augment, seed, ...), in
    place of those of `route`, `selection` and `training`.

    By default a curve leads to a permuted copy, or to the network that is given, and the point on
    it is the first one where stand-ins for a trigger have lost their effect (`NEAR`,
    `universal_stand_ins`); of one network it is tried where such a perturbation is oddly small. If
    they do not lose it, or there is one network, a straight path follows to `unlearned_copy`, which
    universal perturbations no longer turn. A curve from one network that loses them for half of
    what that changes the answers or less goes on to a third of it (`BOUND`, `GOING_ON`); else the
    straight path is taken, and if its network has lost too much accuracy beyond doubt, a curve to a
    permuted copy where no other network was given. A call with a defense as `other`, `after_step`,
    values of t, a rule or any field of `Route`, even at its default, takes the route and the rule
    that it names.

    Samples that are held out choose t and train nothing; with 100 samples or fewer all of them
    train, and the choice claims no confidence. `Parts` are samples that are split already and take
    no `holdout`. `folder` holds what has been computed, so that the same call goes on after an
    interruption.

    Raises BadInput where the samples are fewer than the classes, a network is at chance on them,
    the endpoints differ in architecture, or an option is unknown or out of range.

    >>> from isthmus import fit
    >>> from isthmus.models import mlp
    >>> from isthmus.data import load_data
    >>> digits = load_data("digits")
    >>> a, b = mlp(channels=1, size=8), mlp(channels=1, size=8)
    >>> _ = [fit(net, digits, steps=150, lr=0.1) for net in (a, b)]
    >>> found = repair(a, digits[:300], b, points=5, steps=30)
    >>> found.t in found.path.t and found.model.state_dict().keys() == a.state_dict().keys()
    True
    """
    shape, choosing, budget = sorted_options(options, Route, Selection, Training)
    route, training = route_and_training(route, training, {**shape, **budget})
    selection = replace(selection or Selection(), **choosing)
    parts = selection.parts(bonafide, training.seed)
    home = File(folder) if folder else None
    training = with_decided_precision(training, tampered, parts.whole, home)
    tell_of_frozen_statistics(tampered)
    ways = candidates(
        tampered,
        parts.whole,
        other,
        route,
        training=training,
        selection=selection,
        after_step=after_step,
        home=home,
    )
    for way in ways:
        way.check(tampered, parts.whole)
    known = preflight(tampered, parts)
    return replace(first_acceptable(ways, tampered, parts), preflight=known)


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
            f"changed answers by {here:.2g} nats before stand-ins were lost, and "
            f"{other.endpoint.spoken} by {changed:.2g}"
        )
        return [other, replace(holder, objection=objection)]
    inner = [(t, d) for t, d in zip(holder.path.t, apart, strict=True) if t < 1]
    far = max([holder.t, *(t for t, d in inner if d <= GOING_ON * changed)])
    objection = f"changed answers by {changed:.2g} nats, at least {1 / BOUND:g} times as much"
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
    return Repair(
        model, t, networks, path, endpoint, trained, parts, objection=way.objection(path, t)
    )

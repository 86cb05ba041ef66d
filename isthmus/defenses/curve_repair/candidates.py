"""The routes that a repair may take, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as File

from torch import nn

from isthmus.curves.connection import check_hook
from isthmus.curves.curve import check_real, check_same_architecture, check_unwrapped
from isthmus.curves.route import DEFAULT_ROUTE, Route
from isthmus.data.augment import check_augmentation
from isthmus.data.dataset import Data
from isthmus.defenses.curve_repair.endpoints import Endpoint, free_endpoint
from isthmus.defenses.curve_repair.rules import (
    Choice,
    costs_too_much,
    end_costs_too_much,
    fixed,
    lowered,
    settled,
)
from isthmus.defenses.curve_repair.selection import Selection, Watched
from isthmus.defenses.curve_repair.stand_ins import (
    stand_ins_if_any,
    universal_stand_ins,
    watched_among,
)
from isthmus.defenses.curve_repair.unlearned import ALMOST, unlearned_copy
from isthmus.metrics.accuracy import Divergence, check_above_chance
from isthmus.metrics.names import DIVERGENCE, RECALIBRATED, SPARSE, UNIVERSAL
from isthmus.metrics.path import Path
from isthmus.models.batchnorm import recalibrated_layers
from isthmus.runs.wording import percent
from isthmus.training.budget import Training
from isthmus.training.hooks import AfterStep
from isthmus.training.losses import distillation
from isthmus.training.suited import suited_augmentation
from isthmus.types import BadInput, Defense, Metric

NEAR = Route(low=0.02, high=0.12)
"""The part of a curve where a repair is sought first. A patch is lost within its first twentieth,
which costs a point of accuracy, whether the curve leads to a second network or to a permuted copy;
a pattern blended over the image that is not lost on it is not lost farther on either, where
accuracy goes (docs/results/trained.md)."""

FARTHER = 0.2
"""Where the interval ends on a curve to a permuted copy, which goes on as far as it may."""

PROBES = (0.05, 0.08)
"""The t on a curve near the network where what it has lost is searched for, in turn: there it has
lost most of a patch or a wave, and little else (docs/experiments.md)."""

SETTLED = 0.05
"""The part of a stand-in's fall that may be left at the chosen point of a curve: fewer samples than
that do not tell."""

LOST = 0.15
"""The success of a stand-in that has lost its effect. It is counted on samples of other classes, so
without any effect it is the share of them that the network takes for the target in error: a share
that errors into one class may reach on a few hundred samples. The number was chosen on the networks
of docs/results/trained.md."""


WOKEN = 0.5
"""The success of a stand-in after a recalibration from which on it was merely asleep."""

COSTLY = "cost too much accuracy"
"""The objection to what costs more accuracy than rules allow."""


def costly_end(path: Path, _: Choice) -> str:
    """Return an objection where the samples show beyond doubt that the end costs too much."""
    return COSTLY if end_costs_too_much(path) else ""


def costly(path: Path, t: Choice) -> str:
    """Return an objection where the samples show beyond doubt that t costs too much."""
    return COSTLY if costs_too_much(path, float(t)) else ""


def costly_end_or_stand_ins(path: Path, t: Choice) -> str:
    """Return an objection where the end costs too much, or stand-ins still work at t."""
    watched = watched_among(path.values) is not None
    return costly_end(path, t) or (working_stand_ins(path, t) if watched else "")


def working_stand_ins(path: Path, t: Choice) -> str:
    """Return an objection where stand-ins for a trigger still work at t, or there are none."""
    name = watched_among(path.values)
    if name is None:
        return "lost nothing that resembles a trigger, because nothing was found"
    here = path.at(float(t))
    if here[name] > LOST:
        return f"left stand-ins for a trigger a success of {percent(here[name])}"
    woken = here.get(RECALIBRATED, 0.0)
    if woken > WOKEN:
        return f"left stand-ins a success of {percent(woken)} once BatchNorm is recalibrated"
    return ""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to repair a network: the network at t = 1, or what makes it, the route to it, how it
    is trained, and how a point on it is selected.

    `after_step` is that of `fit`. `home` is the folder where unfinished work is saved; None saves
    nothing. `objection` says in words why the network at a chosen t is not good enough for no other
    way to be tried, and is empty where it is. A way that is `near` the network is decided on
    together with the next one, an unlearned copy, see `decision`. One `by_suspicion` leads to an
    unlearned copy that unlearns one class alone where stand-ins are sure of it.
    """

    other: nn.Module | Defense | Endpoint | None
    route: Route
    training: Training
    selection: Selection
    after_step: AfterStep | None = None
    home: File | None = None
    objection: Callable[[Path, Choice], str] = costly_end
    near: bool = False
    by_suspicion: bool = False

    def check(self, tampered: nn.Module, bonafide: Data) -> None:
        """Raise BadInput where networks, hook or augmentation do not fit; no work is done yet."""
        check_hook(self.route, self.after_step)
        check_augmentation(self.training.augment, bonafide.x)
        check_unwrapped(tampered)
        check_real(tampered)
        check_above_chance(tampered, bonafide)
        if isinstance(self.other, nn.Module):
            check_same_architecture(tampered, self.other)
            check_above_chance(self.other, bonafide)


def candidates(
    tampered: nn.Module,
    bonafide: Data,
    other: nn.Module | Defense | None,
    route: Route | None,
    *,
    training: Training,
    selection: Selection,
    after_step: AfterStep | None = None,
    home: File | None = None,
) -> list[Candidate]:
    """Return the ways to repair the network, the first to be tried first.

    A `route`, a hook, or a rule or values of t in `selection` make it one way: to `other`, or to
    `default_endpoint`. A given defense is one way, too. Else the ways are those of the tampered
    network alone: `near` it on a curve to a permuted copy where there is one, the straight path to
    `unlearned_copy`, and a curve to `default_endpoint`; before them the curve near it to a given
    network.
    """
    only = Candidate(other, route or DEFAULT_ROUTE, training, selection, after_step, home)
    chosen = (route, after_step, selection.rule, selection.values_of_t)
    given = isinstance(other, nn.Module)
    if any(choice is not None for choice in chosen) or not (given or other is None):
        return [only]
    augment = training.augment or suited_augmentation(tampered, bonafide)
    suited = training.replace(augment=augment)
    if given:
        watch = partial(universal_stand_ins, training=training)
        between = near_the_network(replace(only, training=suited), tampered, watch, "between")
        of_one = candidates(
            tampered, bonafide, None, None, training=training, selection=selection, home=home
        )
        return [replace(between, near=False), *of_one]
    copy = unlearned_copy(tampered, bonafide, suited, home=home)
    unlearned = replace(only, other=copy, route=ALMOST, by_suspicion=True)
    watch = partial(stand_ins_if_any, training=training)
    alone = replace(unlearned, selection=watching(unlearned.selection, watch))
    try:
        permuted = free_endpoint(tampered, bonafide, training.seed)
    except BadInput:
        return [alone, only]
    curve = replace(only, other=permuted)
    if not recalibrated_layers(tampered):  # unlearned alone, see `both_moves`
        return [alone, curve]
    first = near_the_network(replace(curve, training=suited), tampered, watch, "near")
    return [replace(first, route=replace(first.route, high=FARTHER)), unlearned, curve]


def near_the_network(way: Candidate, tampered: nn.Module, watch: Watched, folder: str) -> Candidate:
    """Return the way that is tried first where nothing else is said.

    The curve is trained near the tampered end (`NEAR`) to answer as the tampered network does:
    labels of a few hundred images are learned by heart, which costs several points of accuracy
    (docs/results/trained.md). The point is the first one where the stand-ins for a trigger, which
    `watch` finds, have lost their effect, or one before it that costs less.
    """
    return replace(
        way,
        route=NEAR.replace(loss=distillation(tampered)),
        selection=replace(watching(way.selection, watch), rule=lowered(where_lost)),
        home=None if way.home is None else way.home / folder,
        objection=working_stand_ins,
        near=True,
    )


def watching(selection: Selection, watch: Watched) -> Selection:
    """Return the selection with stand-ins for a trigger, which `watch` finds, and how far answers
    are from those of the tampered network among what is measured.

    Metrics of these names that the caller watches are left out, since the decision between ways
    reads them.
    """
    also = selection.watch
    read = {UNIVERSAL, SPARSE, RECALIBRATED, DIVERGENCE}

    def watched(tampered: nn.Module, fitted: Data, held_out: Data) -> dict[str, Metric]:
        seen = also(tampered, fitted, held_out) if also is not None else {}
        others = {name: metric for name, metric in seen.items() if name not in read}
        apart = {DIVERGENCE: Divergence(tampered, held_out)}
        return {**others, **watch(tampered, fitted, held_out), **apart}

    return replace(selection, watch=watched)


def where_lost(path: Path) -> Choice:
    """Return the first point where stand-ins are lost; the last one of a path without them."""
    if UNIVERSAL in path.values:
        return settled(UNIVERSAL, SETTLED)(path)
    return fixed(max(t for t in path.t if t < 1))(path)

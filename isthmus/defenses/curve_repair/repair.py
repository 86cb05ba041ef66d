"""`repair`: second endpoint, curve, path, choice, network. It receives bonafide data and nothing
else.

Source: Zhao et al., ICLR 2020, section 3.

Where we depart: the curve is trained as `connect` does, and t is drawn where the answer is sought;
the point is chosen by a rule on bonafide samples that the curve was not trained on, instead of by a
fixed t or by the attacker's trigger; with one checkpoint the second endpoint is made: a permuted
copy, and a repaired network itself, which has unlearned universal perturbations, and to which the
path is straight; which of them serves, or both together, is decided in `decision`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as File
from typing import Any

from torch import nn

from isthmus.curves.route import Route, route_and_training
from isthmus.data.dataset import Source
from isthmus.data.splits import Parts
from isthmus.defenses.curve_repair.candidates import candidates
from isthmus.defenses.curve_repair.decision import first_acceptable
from isthmus.defenses.curve_repair.preflight import preflight
from isthmus.defenses.curve_repair.repaired import Repair
from isthmus.defenses.curve_repair.selection import Selection
from isthmus.models.batchnorm import tell_of_frozen_statistics
from isthmus.training.budget import Training
from isthmus.training.hooks import AfterStep
from isthmus.training.options import sorted_options
from isthmus.training.precision import with_decided_precision
from isthmus.types import Defense


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

    By default universal perturbations and warps are searched for on the tampered network. Where one
    is so small that there is no doubt of its class (`Suspect.sure`), the repair is the point where
    they are lost, and stay so after a recalibration, on the straight path (`ALMOST`) to a copy that
    has unlearned what leads to that class alone. Else a curve to a permuted copy is trained near
    the network (`NEAR`), and what its first step loses is searched for (`lost_stand_ins`). Where
    that, or an odd perturbation, makes a class suspect, the network makes both of two moves
    (`both_moves`): along the curve, and toward a copy that has unlearned what leads to that class.
    Where none is, it goes a little along the curve. Without BatchNorm it is unlearned alone, toward
    all classes where none is odd.

    Of two networks a curve near the first leads to the one that is given, and its first point where
    `universal_stand_ins` are lost is taken where they are; else the first is repaired alone. If the
    samples object to all of that, a longer curve to a permuted copy follows. A call with a defense
    as `other`, `after_step`, values of t, a rule or any field of `Route`, even at its default,
    takes the route and the rule that it names.

    Samples that are held out choose t and train nothing; with 100 samples or fewer all of them
    train, and the choice claims no confidence. `Parts` are samples that are split already and take
    no `holdout`. `folder` holds what has been computed, so that the same call goes on after an
    interruption. `tampered` stays as it is, and on its own device.

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
